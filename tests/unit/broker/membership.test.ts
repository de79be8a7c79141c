/** Making a mesh, inviting, joining, removing, and what the members are told of it. */
import { beforeEach, describe, expect, test } from "bun:test";
import type { ConnectionId } from "~/broker/connections";
import { createMesh } from "~/broker/membership";
import { MeshError } from "~/errors";
import { generateKeyPair, signText } from "~/identity/keys";
import { isAdmitted } from "~/identity/members";
import type { InviteV3 } from "~/wire/membership";
import { inviteTextV3 } from "~/wire/signed";
import { inviteTo, registrationOf } from "../../support/broker";
import { sendOf, type TestMember } from "../../support/broker-client";
import { Bench } from "./bench";

let bench: Bench;
let owner: ConnectionId;

const bounds = { membersPerMeshMax: 5, meshesPerBrokerMax: 2, openInvitesPerMeshMax: 3, inviteDaysMax: 30 };

beforeEach(() => {
  bench = new Bench(bounds);
  owner = bench.connect(bench.mesh.owner);
});

const inSeconds = (seconds: number): number => Math.floor(bench.clock.now() / 1000) + seconds;

const freshInvite = (changes: Partial<InviteV3> = {}): InviteV3 =>
  inviteTo(bench.mesh, { expires_at: inSeconds(3600), ...changes });

/** `code: message` of a refusal, or what was returned instead. */
const refusal = (outcome: unknown): unknown => (outcome instanceof MeshError ? outcome.code : outcome);

describe("a mesh", () => {
  const make = (slug: string, ownerPubkey: string) =>
    bench.transaction(() =>
      createMesh(
        { slug, name: slug, owner_pubkey: ownerPubkey, display_name: "owner" },
        bench.store,
        bench.bounds,
        bench.newId,
        bench.at,
      ),
    );

  test("made twice by the same owner is made once; the name is then taken for others", () => {
    const key = generateKeyPair().publicKey;
    const first = make("team", key);
    expect(make("team", key)).toEqual(first);
    expect(refusal(make("team", generateKeyPair().publicKey))).toBe("mesh_exists");
    expect(refusal(make("another", key))).toBe("limit_reached");
    expect(make("team", key)).toEqual(first);
  });
});

describe("an invite", () => {
  test("is registered by the owner, once, however often it comes", () => {
    const frame = registrationOf(freshInvite());
    const created = {
      type: "invite_created" as const,
      _reqId: frame._reqId ?? "",
      invite_id: frame.invite_id,
    };
    expect(bench.send(owner, frame, frame)).toEqual([created, created]);
    expect(bench.count("invites")).toBe(1);
  });

  test("with the id of another is refused", () => {
    const frame = registrationOf(freshInvite());
    bench.send(owner, frame);
    const others = [{ ...frame, max_uses: 2 }, registrationOf(freshInvite({ invite_id: frame.invite_id }))];
    for (const other of others)
      expect(bench.send(owner, other)).toMatchObject([{ type: "error", code: "id_in_use" }]);
    const mesh = bench.addMesh();
    const foreign = bench.connect(mesh.owner);
    const same = registrationOf(inviteTo(mesh, { invite_id: frame.invite_id, expires_at: inSeconds(60) }));
    expect(bench.send(foreign, same)).toMatchObject([{ code: "id_in_use", _reqId: frame.invite_id }]);
  });

  test("needs the owner's own signature, of exactly this", () => {
    const frame = registrationOf(freshInvite());
    const refused = [
      { type: "error", code: "not_allowed", message: "only the owner's signature makes an invite" },
    ];
    const admin = bench.addMember("admin", "admin");
    const fromAdmin = bench.connect(admin);
    expect(bench.send(fromAdmin, frame)).toMatchObject(refused);
    const { invite_public_key, ...rest } = frame;
    const asAdmin = inviteTextV3({
      ...rest,
      mesh_id: bench.mesh.meshId,
      owner_pubkey: admin.keys.publicKey,
      invite_public_key,
    });
    const changes = [
      { signature: signText(asAdmin, admin.keys.secretKey) },
      { role: "admin" as const },
      { expires_at: frame.expires_at + 1 },
      { invite_public_key: generateKeyPair().publicKey },
      { root_key_sha256: "0".repeat(64) },
    ];
    for (const change of changes) expect(bench.send(owner, { ...frame, ...change })).toMatchObject(refused);
    expect(bench.count("invites")).toBe(1);
  });

  test("is bounded in time, in uses and in number", () => {
    const day = 24 * 3600;
    const answerTo = (invite: InviteV3, uses = 1) => bench.send(owner, registrationOf(invite, uses))[0];
    expect(answerTo(freshInvite({ expires_at: inSeconds(-1) }))).toMatchObject({ code: "invite_expired" });
    expect(answerTo(freshInvite({ expires_at: inSeconds(31 * day) }))).toMatchObject({
      code: "limit_reached",
    });
    expect(answerTo(freshInvite(), 10_001)).toMatchObject({
      code: "malformed",
      message: expect.stringContaining("10000"),
    });
    const soon = freshInvite({ expires_at: inSeconds(10) });
    for (const invite of [soon, freshInvite({ expires_at: inSeconds(30 * day) }), freshInvite()])
      expect(answerTo(invite)).toMatchObject({ type: "invite_created" });
    expect(answerTo(freshInvite())).toMatchObject({ code: "limit_reached" });
    bench.clock.advance(12_000);
    expect(answerTo(freshInvite())).toMatchObject({ type: "invite_created" });
    expect(answerTo(soon)).toMatchObject({ type: "invite_created" });
  });

  test("is revoked by the owner and admins, and stays so", () => {
    const admin = bench.connect(bench.addMember("admin", "admin"));
    const member = bench.connect(bench.addMember("member"));
    const frame = registrationOf(freshInvite());
    bench.send(owner, frame);
    const revoke = { type: "revoke_invite" as const, _reqId: "r", invite_id: frame.invite_id };
    expect(bench.send(member, revoke)).toMatchObject([{ code: "not_allowed" }]);
    expect(bench.send(admin, { ...revoke, invite_id: "none" })).toMatchObject([{ code: "invite_invalid" }]);
    expect(bench.send(bench.connect(bench.addMesh().owner), revoke)).toMatchObject([
      { code: "invite_invalid" },
    ]);
    const revoked = { type: "invite_revoked" as const, _reqId: "r", invite_id: frame.invite_id };
    expect(bench.send(admin, revoke, revoke)).toEqual([revoked, revoked]);
    expect(bench.send(owner, frame)).toMatchObject([{ code: "invite_revoked" }]);
  });
});

describe("joining", () => {
  test("makes a member with the invite's role, whose admission everybody can check", () => {
    const admin = bench.addMember("ann", "admin");
    const [list] = bench.send(owner, { type: "list_members", _reqId: "q" });
    if (list?.type !== "members_list") throw new Error("no list");
    expect(list._reqId).toBe("q");
    expect(list.members.map((member) => [member.display_name, member.role, member.online])).toEqual([
      ["owner", "owner", true],
      ["ann", "admin", false],
    ]);
    const [first, second] = list.members;
    expect(first).not.toHaveProperty("admission");
    expect(second).not.toHaveProperty("last_seen_at");
    expect(second?.capabilities).toEqual([]);
    expect(second?.joined_at).toBe(new Date(bench.clock.now()).toISOString());
    const ownerKey = bench.mesh.owner.keys.publicKey;
    expect(isAdmitted(admin.keys.publicKey, second?.admission, bench.mesh.meshId, ownerKey)).toBe(true);
  });

  test("is told to the members", () => {
    bench.addMember("bob");
    expect(bench.events(owner)).toEqual(["member_joined bob"]);
  });

  const cases: [what: string, join: () => unknown, code: string][] = [
    ["an unknown invite", () => bench.join(freshInvite(), "eve"), "invite_invalid"],
    [
      "a revoked one",
      () => {
        const invite = bench.registered();
        bench.send(owner, { type: "revoke_invite", invite_id: invite.invite_id });
        return bench.join(invite, "eve");
      },
      "invite_revoked",
    ],
    [
      "an expired one",
      () => {
        const invite = bench.registered({ expires_at: inSeconds(10) });
        bench.clock.advance(11_000);
        return bench.join(invite, "eve");
      },
      "invite_expired",
    ],
    [
      "one that is expired by the joiner's clock, which members would not believe",
      () =>
        bench.join(
          bench.registered({ expires_at: inSeconds(10) }),
          "eve",
          bench.mesh,
          generateKeyPair(),
          bench.clock.now() + 20_000,
        ),
      "invite_expired",
    ],
    [
      "a used one",
      () => {
        const invite = bench.registered();
        bench.join(invite, "bob");
        return bench.join(invite, "eve");
      },
      "invite_used_up",
    ],
    [
      "a clock that is wrong",
      () => bench.join(bench.registered(), "eve", bench.mesh, generateKeyPair(), bench.clock.now() - 60_001),
      "clock_skew",
    ],
    [
      "a proof by another key",
      () => bench.join({ ...bench.registered(), invite_secret: "7".repeat(64) }, "eve"),
      "invite_invalid",
    ],
    [
      "a mesh that is full",
      () => {
        const invite = bench.registered({}, 10);
        for (let n = 0; n < 4; n++) bench.join(invite, `m${n}`);
        return bench.join(invite, "eve");
      },
      "limit_reached",
    ],
  ];
  test.each(cases)("is refused with %s", (_what, join, code) => {
    expect(refusal(join())).toBe(code);
    const [list] = bench.send(owner, { type: "list_members" });
    if (list?.type !== "members_list") throw new Error("no list");
    expect(list.members.map((member) => member.display_name)).not.toContain("eve");
  });

  test("again with the same key gives the same answer, whatever became of the invite", () => {
    const keys = generateKeyPair();
    const invite = bench.registered({ expires_at: inSeconds(100) });
    const first = bench.join(invite, "bob", bench.mesh, keys);
    const firstAt = bench.clock.now();
    bench.events(owner);
    bench.send(owner, { type: "revoke_invite", invite_id: invite.invite_id });
    bench.clock.advance(1_000_000);
    for (const timestamp of [bench.clock.now(), firstAt])
      expect(bench.join(invite, "bob", bench.mesh, keys, timestamp)).toEqual(first);
    expect(bench.events(owner)).toEqual([]);
    expect(bench.store.inviteById(invite.invite_id)?.uses).toBe(1);
    expect(refusal(bench.join({ ...invite, invite_secret: "7".repeat(64) }, "bob", bench.mesh, keys))).toBe(
      "invite_revoked",
    );
  });

  test("a member that uses another invite is one already, and uses nothing up", () => {
    const invite = bench.registered();
    const { keys, memberId } = bench.mesh.owner;
    expect(bench.join(invite, "me again", bench.mesh, keys)).toMatchObject({ memberId });
    expect(bench.store.inviteById(invite.invite_id)?.uses).toBe(0);
  });

  test("a removed key does not come back, a new one does", () => {
    const invite = bench.registered({}, 5);
    const bob = bench.join(invite, "bob");
    if (bob instanceof Error) throw bob;
    bench.send(owner, { type: "remove_member", pubkey: bob.keys.publicKey });
    expect(refusal(bench.join(invite, "bob", bench.mesh, bob.keys))).toBe("not_allowed");
    const another = bench.registered();
    expect(refusal(bench.join(another, "bob", bench.mesh, bob.keys))).toBe("not_allowed");
    expect(bench.join(another, "bob")).toMatchObject({ displayName: "bob" });
  });
});

describe("removing", () => {
  let bob: TestMember;
  beforeEach(() => {
    bob = bench.addMember("bob");
    bench.events(owner);
  });
  const remove = (from: ConnectionId, member: TestMember) =>
    bench.send(from, { type: "remove_member", _reqId: "r", pubkey: member.keys.publicKey })[0];

  test("closes the member's connections, tells the others, revokes the open invites and says how many", () => {
    const carol = bench.connect(bench.addMember("carol"));
    const connections = [bench.connect(bob), bench.connect(bob, { capabilities: ["send_only"] })];
    const used = bench.registered();
    bench.join(used, "dan");
    for (const changes of [{}, {}]) bench.registered(changes);
    bench.events(carol);
    bench.events(owner);
    expect(remove(owner, bob)).toEqual({
      type: "member_removed",
      _reqId: "r",
      pubkey: bob.keys.publicKey,
      revoked_invites: 2,
    });
    for (const id of connections) expect(bench.closes.get(id)?.code).toBe(4002);
    expect(bench.events(carol)).toEqual(["peer_left bob", "member_removed bob"]);
    expect(bench.events(owner)).toEqual(["peer_left bob", "member_removed bob"]);
    expect(bench.store.listMembers(1).map((member) => member.display_name)).not.toContain("bob");
  });

  test("again revokes what was opened since, and closes and tells nothing more", () => {
    remove(owner, bob);
    bench.registered();
    bench.events(owner);
    expect(remove(owner, bob)).toMatchObject({ type: "member_removed", revoked_invites: 1 });
    expect(bench.events(owner)).toEqual([]);
  });

  const roles = ["owner", "admin", "member"] as const;
  const allowed: Record<(typeof roles)[number], readonly string[]> = {
    owner: ["admin", "member"],
    admin: ["member"],
    member: [],
  };
  test.each(roles.flatMap((who) => roles.map((whom) => [who, whom] as const)))(
    "%s removes %s",
    (who, whom) => {
      const memberOf = (role: (typeof roles)[number], name: string) =>
        role === "owner" ? bench.mesh.owner : bench.addMember(name, role);
      const [actor, target] = [memberOf(who, "actor"), memberOf(whom, "target")];
      const answer = remove(bench.connect(actor), target);
      if (allowed[who].includes(whom)) expect(answer).toMatchObject({ type: "member_removed" });
      else expect(answer).toMatchObject({ type: "error", code: "not_allowed", _reqId: "r" });
    },
  );

  test("oneself is leaving: for members and admins, it revokes nothing", () => {
    const ann = bench.addMember("ann", "admin");
    bench.registered();
    for (const member of [bob, ann]) {
      const id = bench.connect(member);
      expect(remove(id, member)).toMatchObject({ type: "member_removed", revoked_invites: 0 });
      expect(bench.closes.get(id)?.code).toBe(4002);
    }
  });

  test("somebody who never was a member", () => {
    const stranger = bench.addMember("stranger", "member", bench.addMesh());
    expect(remove(owner, stranger)).toMatchObject({ type: "error", code: "no_such_member" });
  });

  test("ends what the member may do, also in what it had sent already", () => {
    const id = bench.connect(bob);
    remove(owner, bob);
    expect(bench.send(id, sendOf(bench.mesh.owner.keys.publicKey), { type: "list_members" })).toEqual([]);
    expect(bench.count("messages")).toBe(0);
  });
});

test("a directory too large for one frame comes in pages", () => {
  bench = new Bench();
  const expected = ["owner"];
  const capabilities = Array.from({ length: 32 }, (_, n) => `${n}`.padEnd(64, "x"));
  bench.db.run("BEGIN");
  for (let n = 0; n < 600; n++) {
    const name = `member-${n}`;
    expected.push(name);
    bench.store.addMember({
      member_id: bench.newId(),
      mesh: 1,
      pubkey: n.toString(16).padStart(64, "0"),
      display_name: name,
      role: "member",
      at: bench.clock.now(),
    });
    bench.store.noteCapabilities(n + 2, capabilities);
  }
  bench.db.run("COMMIT");
  const from = bench.connect(bench.mesh.owner);
  const names: string[] = [];
  let after: string | undefined;
  do {
    const [page] = bench.send(from, { type: "list_members", ...(after === undefined ? {} : { after }) });
    if (page?.type !== "members_list") throw new Error("no page");
    expect(JSON.stringify(page).length).toBeLessThan(1024 * 1024);
    names.push(...page.members.map((member) => member.display_name));
    after = page.next;
    // A member at the seam that is removed meanwhile neither repeats nor hides others.
    if (after !== undefined && names.length < 400)
      bench.db.run("UPDATE members SET removed_at = 1 WHERE member_id = ?", [after]);
  } while (after !== undefined);
  expect(names).toEqual(expected);
  expect(bench.send(from, { type: "list_members", after: "nobody" })).toMatchObject([
    { code: "no_such_member" },
  ]);
});
