import { defineCommand } from "~/cli/command";
import { daemonClient } from "~/cli/daemon-client";
import { columns, localTime, printableLine, shortKey } from "~/cli/text";
import type { PeerItem } from "~/wire/ipc";

export const peers = defineCommand({
  name: "peers",
  description: "who is there",
  args: {
    mesh: { type: "string", valueHint: "MESH", completes: "mesh", description: "only this mesh" },
    all: { type: "boolean", description: "with members that are away" },
  },
  exits: [3, 4, 5, 7],
  examples: ["claudemesh peers", "claudemesh peers --all --json"],
  async run({ mesh, all }, host) {
    const reply = await daemonClient(host).call("peers", { query: { mesh, ...(all ? { all: true } : {}) } });
    await host.out.answer(reply, () => columns(reply.peers.map(renderPeer)));
    if (reply.peers.length === 0) {
      await host.out.note(
        all ? "no other members" : "nobody is there; claudemesh peers --all shows who is away",
      );
    }
    if (reply.stale) await host.out.note("the broker is away: this is what was known last");
  },
});

const doubts = {
  admission: "UNTRUSTED: nothing proves that the owner let it in",
  name_changed: "UNTRUSTED: this name had another key before",
} as const;

function renderPeer(peer: PeerItem): string[] {
  const seen = peer.last_seen_at === undefined ? "" : ` since ${localTime(peer.last_seen_at)}`;
  return [
    printableLine(peer.name),
    printableLine(peer.mesh),
    shortKey(peer.pubkey),
    peer.online ? printableLine(peer.status) : `away${seen}`,
    peer.untrusted === undefined ? printableLine(peer.summary ?? "") : doubts[peer.untrusted],
  ];
}
