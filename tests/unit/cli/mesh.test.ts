/** Membership by command against a real broker: what is idempotent, who may do what, what is kept when something fails. */
import { afterAll, beforeAll, describe, expect, setSystemTime, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type RunningBroker, startBroker } from "~/broker/serve";
import { join as joinCommand } from "~/cli/join";
import { meshCreate } from "~/cli/mesh/create";
import { meshInvite } from "~/cli/mesh/invite";
import { meshLeave } from "~/cli/mesh/leave";
import { meshList } from "~/cli/mesh/list";
import { meshMembers } from "~/cli/mesh/members";
import { meshRemove } from "~/cli/mesh/remove";
import { meshTrust } from "~/cli/mesh/trust";
import { type ErrorCode, MeshError } from "~/errors";
import { readConfig } from "~/identity/config";
import { joinProof, parseInviteLink } from "~/identity/invite";
import { beginAttempt } from "~/identity/pending";
import { createMesh, joinMesh } from "~/link/http";
import { tempDir } from "../../support/temp-dir";
import { type CapturedHost, capturedHost } from "./captured-host";

let broker: RunningBroker;
let brokerDir: string;
beforeAll(async () => {
  brokerDir = tempDir();
  broker = await startBroker({ dataDir: brokerDir, port: 0, log: () => undefined });
});
afterAll(() => broker.stop());

const newHost = (): CapturedHost => capturedHost({ json: true, env: { CLAUDEMESH_BROKER_DATA: brokerDir } });

async function run(
  command: { execute(argv: readonly string[], host: CapturedHost): Promise<number> },
  host: CapturedHost,
  ...argv: string[]
): Promise<Record<string, unknown>> {
  const before = host.answers.length;
  expect(await command.execute(argv, host)).toBe(0);
  const answer = host.answers[before];
  if (typeof answer !== "object" || answer === null) throw new Error(`no answer to ${argv.join(" ")}`);
  return { ...answer };
}

async function codeOf(promise: Promise<unknown>): Promise<ErrorCode> {
  const outcome = await promise.then(
    () => undefined,
    (error: unknown) => error,
  );
  if (outcome instanceof MeshError) return outcome.code;
  throw new Error(`no MeshError but ${Bun.inspect(outcome)}`);
}

let meshes = 0;
/** A mesh of its own for every test, and its owner. */
async function newMesh(): Promise<{ owner: CapturedHost; slug: string }> {
  const owner = newHost();
  const slug = `mesh-${++meshes}`;
  await run(meshCreate, owner, slug, "--broker", broker.url, "--display-name", "owner");
  return { owner, slug };
}

const invite = async (owner: CapturedHost, ...flags: string[]): Promise<string> =>
  String((await run(meshInvite, owner, ...flags)).link);

const pendingIn = ({ paths }: CapturedHost): string[] => {
  const dir = join(paths.configDir, "pending");
  return existsSync(dir) ? readdirSync(dir).filter((name) => name.endsWith(".json")) : [];
};

describe("create", () => {
  test("makes an entry with the owner's keys, and says what comes next", async () => {
    const host = newHost();
    const answer = await run(meshCreate, host, "Größe 1", "--broker", broker.url);
    expect(answer).toEqual({ mesh_id: expect.any(String), slug: "gro-e-1" });
    const [mesh] = readConfig(host.paths.configFile).meshes;
    expect(mesh).toMatchObject({
      meshId: answer.mesh_id,
      slug: "gro-e-1",
      name: "Größe 1",
      inviteVersion: 3,
      ownerPubkey: mesh?.pubkey,
      brokerUrl: broker.url,
    });
    expect(Buffer.from(mesh?.rootKey ?? "", "base64url").length).toBe(32);
    expect(pendingIn(host)).toEqual([]);
    expect(host.notes).toEqual([
      "next: claudemesh daemon up",
      "to let others in: claudemesh mesh invite --mesh gro-e-1",
    ]);
  });

  test("that was cut off after the broker's answer is finished by a repeat", async () => {
    const host = newHost();
    const attempt = beginAttempt(host.paths.configDir, ["create", broker.url, "cut-off"]);
    const token = readFileSync(join(brokerDir, "admin-token"), "utf8").trim();
    const made = await createMesh(broker.url, token, {
      slug: "cut-off",
      name: "cut-off",
      owner_pubkey: attempt.pubkey,
      display_name: "x",
    });
    expect(await run(meshCreate, host, "cut-off", "--broker", broker.url)).toMatchObject({
      mesh_id: made.mesh_id,
    });
    expect(pendingIn(host)).toEqual([]);
  });

  test("a name that is taken is refused and leaves nothing", async () => {
    const { owner, slug } = await newMesh();
    expect(await codeOf(run(meshCreate, owner, slug, "--broker", broker.url))).toBe("mesh_exists");
    const other = newHost();
    expect(await codeOf(run(meshCreate, other, slug, "--broker", broker.url))).toBe("mesh_exists");
    expect([pendingIn(owner), pendingIn(other)]).toEqual([[], []]);
  });

  test("a wrong or missing token is refused", async () => {
    const wrong = capturedHost({ env: { CLAUDEMESH_BROKER_TOKEN: "wrong" } });
    expect(await codeOf(run(meshCreate, wrong, "other", "--broker", broker.url))).toBe("unauthorized");
    expect(await codeOf(run(meshCreate, capturedHost(), "other", "--broker", broker.url))).toBe(
      "unauthorized",
    );
  });

  test("without an answer the keys are kept for the repeat", async () => {
    const host = newHost();
    expect(await codeOf(run(meshCreate, host, "later", "--broker", "ws://127.0.0.1:1"))).toBe(
      "broker_unreachable",
    );
    expect(pendingIn(host).length).toBe(1);
  });

  test("a config.json that does not parse is not touched", async () => {
    const host = newHost();
    writeFileSync(host.paths.configFile, "{ mine", { mode: 0o600 });
    expect(await codeOf(run(meshCreate, host, "never", "--broker", broker.url))).toBe("config_invalid");
    expect(readFileSync(host.paths.configFile, "utf8")).toBe("{ mine");
  });
});

describe("invite and join", () => {
  test("a link lets one host in, under its name, once", async () => {
    const { owner, slug } = await newMesh();
    const answer = await run(meshInvite, owner, "--expires", "2h");
    expect(Object.keys(answer)).toEqual(["link", "expires_at"]);
    expect(owner.notes.some((note) => note.includes("This link is a secret"))).toBe(true);
    const link = String(answer.link);
    const bob = newHost();
    const joined = await run(joinCommand, bob, link, "--name", "bob");
    expect(joined).toEqual({ mesh_id: expect.any(String), slug, member_id: expect.any(String) });
    expect(await run(joinCommand, bob, link)).toEqual(joined);
    expect(await codeOf(run(joinCommand, newHost(), link))).toBe("invite_used_up");
    expect((await run(meshMembers, owner)).members).toMatchObject([
      { name: "owner", role: "owner", standing: "verified", is_self: true },
      { name: "bob", role: "member", standing: "verified", is_self: false },
    ]);
  });

  test("a join that was cut off after the broker's answer is finished by a repeat, even after the link expired", async () => {
    const { owner } = await newMesh();
    const link = await invite(owner, "--expires", "1h");
    const parsed = parseInviteLink(link, 0);
    if (parsed.v !== 3) throw new Error("an invite of version 3 was due");
    const bob = newHost();
    const attempt = beginAttempt(bob.paths.configDir, ["join", parsed.invite_id]);
    const timestamp = Date.now();
    const { memberId } = await joinMesh(broker.url, {
      v: 3,
      invite_id: parsed.invite_id,
      peer_pubkey: attempt.pubkey,
      display_name: "bob",
      timestamp,
      proof: joinProof(parsed, attempt.pubkey, timestamp),
    });
    setSystemTime(timestamp + 2 * 3600_000);
    try {
      expect(await run(joinCommand, bob, link)).toMatchObject({ member_id: memberId });
      expect(pendingIn(bob)).toEqual([]);
      const late = newHost();
      expect(await codeOf(run(joinCommand, late, link))).toBe("invite_expired");
      expect(pendingIn(late)).toEqual([]);
    } finally {
      setSystemTime();
    }
  });

  test("an admin's invite makes an admin; several uses are several hosts", async () => {
    const { owner } = await newMesh();
    const link = await invite(owner, "--role", "admin", "--uses", "2");
    await run(joinCommand, newHost(), link, "--name", "one");
    await run(joinCommand, newHost(), link, "--name", "two");
    const { members } = await run(meshMembers, owner);
    expect(members).toMatchObject([{ role: "owner" }, { role: "admin" }, { role: "admin" }]);
  });

  test("only the owner invites", async () => {
    const { owner } = await newMesh();
    const bob = newHost();
    await run(joinCommand, bob, await invite(owner), "--name", "bob");
    expect(await codeOf(run(meshInvite, bob))).toBe("not_allowed");
  });

  test("a link that was changed is refused before anybody is asked", async () => {
    const { owner } = await newMesh();
    const link = await invite(owner);
    const tampered = JSON.parse(Buffer.from(link.slice("ic://join/".length), "base64url").toString());
    tampered.role = "admin";
    const changed = `ic://join/${Buffer.from(JSON.stringify(tampered)).toString("base64url")}`;
    expect(await codeOf(run(joinCommand, newHost(), changed))).toBe("invite_invalid");
    expect(await codeOf(run(joinCommand, newHost(), link.slice(0, -20)))).toBe("invite_invalid");
  });
});

describe("members go", () => {
  test("remove: by name, in any case, and every open invite with it", async () => {
    const { owner, slug } = await newMesh();
    const bob = newHost();
    await run(joinCommand, bob, await invite(owner), "--name", "bob");
    const open = await invite(owner);
    expect(await run(meshRemove, owner, "BOB")).toMatchObject({
      mesh: slug,
      removed: { name: "bob" },
      revoked_invites: 1,
    });
    expect(await codeOf(run(joinCommand, newHost(), open))).toBe("invite_revoked");
    expect(await codeOf(run(meshRemove, owner, "bob"))).toBe("unknown_peer");
    expect(await codeOf(run(meshRemove, owner, "owner"))).toBe("usage");
  });

  test("remove is for the owner and admins", async () => {
    const { owner } = await newMesh();
    const [bob, carol] = [newHost(), newHost()];
    await run(joinCommand, bob, await invite(owner), "--name", "bob");
    await run(joinCommand, carol, await invite(owner), "--name", "carol");
    expect(await codeOf(run(meshRemove, bob, "carol"))).toBe("not_allowed");
  });

  test("leave tells the broker and forgets the keys; who was removed before may leave as well", async () => {
    const { owner, slug } = await newMesh();
    const [bob, carol] = [newHost(), newHost()];
    await run(joinCommand, bob, await invite(owner), "--name", "bob");
    expect(await run(meshLeave, bob)).toMatchObject({ slug, broker_told: true });
    expect((await run(meshList, bob)).meshes).toEqual([]);
    await run(joinCommand, carol, await invite(owner), "--name", "carol");
    await run(meshRemove, owner, "carol");
    expect(await run(meshLeave, carol)).toMatchObject({ slug });
    expect((await run(meshMembers, owner)).members).toMatchObject([{ name: "owner" }]);
  });

  test("leave needs --force when the broker does not take part", async () => {
    const { owner } = await newMesh();
    expect(await codeOf(run(meshLeave, owner))).toBe("not_allowed");
    expect(readConfig(owner.paths.configFile).meshes.length).toBe(1);
    expect(await run(meshLeave, owner, "--force")).toMatchObject({ broker_told: false });
    expect(readConfig(owner.paths.configFile).meshes.length).toBe(0);
  });
});

test("trust keeps the key, by name or by its first digits, once", async () => {
  const { owner } = await newMesh();
  const bob = newHost();
  await run(joinCommand, bob, await invite(owner), "--name", "bob");
  const key = readConfig(bob.paths.configFile).meshes[0]?.pubkey ?? "";
  expect(await run(meshTrust, owner, "bob")).toMatchObject({
    trusted: { name: "bob", pubkey: key },
    was_refused_for: null,
  });
  await run(meshTrust, owner, key.slice(0, 12));
  expect(readConfig(owner.paths.configFile).meshes[0]?.trustedKeys).toEqual([key]);
  expect((await run(meshMembers, owner)).members).toMatchObject([{}, { standing: "trusted_by_hand" }]);
  expect(await codeOf(run(meshTrust, owner, "nobody"))).toBe("unknown_peer");
});

test("the list shows no secret", async () => {
  const { owner } = await newMesh();
  const { secretKey = "", rootKey = "" } = readConfig(owner.paths.configFile).meshes[0] ?? {};
  const text = JSON.stringify(await run(meshList, owner));
  expect(text).not.toContain(secretKey.slice(0, 64));
  expect(text).not.toContain(rootKey);
});
