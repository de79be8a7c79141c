/**
 * A disk without space, for real: a small tmpfs under the directory of the sender, the recipient or the broker. What cannot be
 * kept is refused in words, nothing is half-written, and everything goes on by itself when there is space again.
 */
import { describe, expect, test } from "bun:test";
import * as v from "valibot";
import { ErrorReply } from "~/wire/reply";
import { startMesh } from "../support/mesh";
import { canMount, fill, shrink } from "../support/small-disk";
import { waitFor } from "../support/wait-for";

const bodies = Array.from({ length: 10 }, (_, index) => `message ${index}`);

describe.skipIf(!canMount)("a full disk", () => {
  test("of the sender: a send is refused and leaves nothing; the same send is taken when there is space", async () => {
    const { alice, bob } = await startMesh({ members: ["alice", "bob"] });
    await alice.down();
    shrink(alice.daemonDir);
    await alice.up();
    await alice.connected();
    await alice.send("bob", "before");
    const makeRoom = fill(alice.daemonDir);
    // What is left of pages that were set aside earlier may take a few more.
    let refused: ErrorReply | undefined;
    const taken: string[] = [];
    for (let n = 0; refused === undefined && n < 500; n++) {
      const body = `filling ${n} ${"x".repeat(2_000)}`;
      const answer = await alice.post("bob", body, { client_message_id: `filling-${n}` });
      if (answer.status === 202) taken.push(body);
      else {
        expect(answer.status).toBe(507);
        refused = v.parse(ErrorReply, answer.body);
      }
    }
    expect(refused?.error).toBe("storage_full");
    expect(refused?.hint).toContain("space");
    const { counts } = await alice.outbox();
    expect(Object.values(counts).reduce((sum, count) => sum + count)).toBe(taken.length + 1);

    makeRoom();
    await waitFor(
      async () => (await alice.post("bob", "after", { client_message_id: "after" })).status === 202,
      {
        what: "a send to be taken again",
      },
    );
    await bob.received(taken.length + 2);
    expect(await bob.bodies()).toEqual(["before", ...taken, "after"]);
  });

  test("of the recipient: nothing is acknowledged that is not kept; all of it arrives, in order, when there is space", async () => {
    const { alice, bob } = await startMesh({ members: ["alice", "bob"] });
    await bob.down();
    shrink(bob.daemonDir);
    await bob.up();
    await bob.connected();
    const makeRoom = fill(bob.daemonDir);
    const large = bodies.map((body) => `${body} ${"x".repeat(40_000)}`);
    for (const body of large) await alice.send("bob", body);
    await waitFor(async () => (await bob.health()).problems.some(({ code }) => code.startsWith("storage_")), {
      what: "health to name the disk",
    });
    expect((await bob.inbox()).length).toBeLessThan(large.length);
    makeRoom();
    await bob.received(large.length, 20_000);
    expect(await bob.bodies()).toEqual(large);
  });

  test("of the broker: a send waits at its sender, and goes through when there is space", async () => {
    const { alice, bob, broker } = await startMesh({ members: ["alice", "bob"] });
    await broker.down();
    shrink(broker.dataDir);
    await broker.up();
    await Promise.all([alice.connected(), bob.connected()]);
    const makeRoom = fill(broker.dataDir);
    const large = bodies.map((body) => `${body} ${"x".repeat(40_000)}`);
    for (const body of large) await alice.send("bob", body);
    await waitFor(async () => (await alice.outbox("&status=retrying")).items.length > 0, {
      what: "a refusal by the broker",
    });
    expect((await alice.outbox("&status=retrying")).items[0]?.last_error).toContain("internal");
    makeRoom();
    await bob.received(large.length, 20_000);
    expect(await bob.bodies()).toEqual(large);
  });
});
