/** Who is seen by whom, and when the others are told. */
import { beforeEach, expect, test } from "bun:test";
import type { ConnectionId } from "~/broker/connections";
import type { TestMember } from "../../support/broker-client";
import { Bench } from "./bench";

let bench: Bench;
let bob: TestMember;
let owner: ConnectionId;

beforeEach(() => {
  bench = new Bench();
  bob = bench.addMember("bob");
  owner = bench.connect(bench.mesh.owner);
});

const peersOf = (id: ConnectionId) => {
  const [list] = bench.send(id, { type: "list_peers", _reqId: "p" });
  if (list?.type !== "peers_list" || list._reqId !== "p") throw new Error("no list");
  return list.peers;
};
const namesFor = (id: ConnectionId): string[] => peersOf(id).map((peer) => peer.displayName);
const onlineFor = (id: ConnectionId): string[] => {
  const [list] = bench.send(id, { type: "list_members" });
  if (list?.type !== "members_list") throw new Error("no list");
  return list.members.filter((member) => member.online).map((member) => member.display_name);
};

test("a peer comes and goes, and the others of its mesh are told", () => {
  const elsewhere = bench.connect(bench.addMesh().owner);
  const id = bench.connect(bob);
  expect([bench.events(owner), bench.events(elsewhere)]).toEqual([["peer_joined bob"], []]);
  expect(namesFor(owner)).toEqual(["owner", "bob"]);
  bench.gone(id);
  expect([bench.events(owner), bench.events(elsewhere)]).toEqual([["peer_left bob"], []]);
  expect(namesFor(owner)).toEqual(["owner"]);
});

test("a takeover is no news", () => {
  const first = bench.connect(bob);
  bench.events(owner);
  bench.connect(bob);
  bench.gone(first);
  expect([bench.events(owner), namesFor(owner)]).toEqual([[], ["owner", "bob"]]);
});

test("a connection that only sends is not seen, hears nothing, and may ask", () => {
  const cold = bench.connect(bob, { capabilities: ["send_only"] });
  expect([bench.events(owner), namesFor(cold), onlineFor(cold)]).toEqual([[], ["owner"], ["owner"]]);
  for (const frame of [
    { type: "set_visible", visible: true },
    { type: "set_status", status: "dnd" },
  ] as const)
    expect(bench.send(cold, frame)).toMatchObject([{ type: "error", code: "not_allowed" }]);
  bench.connect(bench.addMember("carol"));
  expect(bench.events(cold)).toEqual([]);
  bench.gone(cold);
  expect(bench.events(owner)).toEqual(["member_joined carol", "peer_joined carol"]);
});

test("what a peer says of itself is shown, until its connection ends", () => {
  const id = bench.connect(bob, {
    cwd: "/home/bob",
    hostname: "box",
    peerType: "ai",
    channel: "c",
    groups: [{ name: "g" }],
    sessionId: "s",
  });
  const answers = bench.send(
    id,
    { type: "set_status", _reqId: "1", status: "working" },
    { type: "set_summary", _reqId: "2", summary: "busy with it" },
    { type: "set_profile", _reqId: "3", title: "Engineer", capabilities: ["bun"] },
    { type: "set_profile", bio: "builds" },
  );
  expect(answers).toEqual([
    { type: "ok", _reqId: "1" },
    { type: "ok", _reqId: "2" },
    { type: "ok", _reqId: "3" },
    { type: "ok" },
  ]);
  const entry = {
    pubkey: bob.keys.publicKey,
    memberPubkey: bob.keys.publicKey,
    displayName: "bob",
    status: "working",
    summary: "busy with it",
    groups: [{ name: "g" }],
    sessionId: "s",
    connectedAt: new Date(bench.clock.now()).toISOString(),
    cwd: "/home/bob",
    hostname: "box",
    peerType: "ai" as const,
    channel: "c",
    model: null,
    visible: true,
    profile: { bio: "builds" },
  };
  expect(peersOf(owner)[1]).toEqual(entry);
  expect(peersOf(bench.connect(bob))[1]).toMatchObject({
    status: "idle",
    summary: null,
    profile: null,
    cwd: null,
  });
});

test("who hides is gone for the others, and there for itself", () => {
  const id = bench.connect(bob);
  bench.events(owner);
  const hide = { type: "set_visible", visible: false } as const;
  expect(bench.send(id, hide, hide)).toEqual([{ type: "ok" }, { type: "ok" }]);
  expect(bench.events(owner)).toEqual(["peer_left bob"]);
  expect([namesFor(owner), namesFor(id)]).toEqual([["owner"], ["owner", "bob"]]);
  expect([onlineFor(owner), onlineFor(id)]).toEqual([["owner"], ["owner", "bob"]]);
  bench.send(id, { type: "set_visible", visible: true });
  expect(bench.events(owner)).toEqual(["peer_joined bob"]);

  bench.send(id, hide);
  bench.events(owner);
  const newer = bench.connect(bob);
  expect(bench.events(owner)).toEqual(["peer_joined bob"]);
  bench.send(newer, hide);
  bench.events(owner);
  bench.gone(newer);
  expect(bench.events(owner)).toEqual([]);
});

test("the list never outgrows a frame", () => {
  const summary = "s".repeat(500);
  const profile = { bio: "b".repeat(2000), avatar: "a".repeat(500) };
  for (let n = 0; n < 200; n++) {
    const id = bench.connect(bench.addMember(`m${n}`), { cwd: "c".repeat(4096) });
    bench.send(id, { type: "set_summary", summary }, { type: "set_profile", ...profile });
  }
  const [list] = bench.send(owner, { type: "list_peers" });
  expect(JSON.stringify(list).length).toBeLessThan(1024 * 1024);
});
