/** What a connection's end is called: every phase with every event, in words from a fixed set. */
import { describe, expect, test } from "bun:test";
import { type LinkEnd, type LinkEvent, type LinkState, linkEndBy, linkEnds } from "~/link/state";

const closed = (code: number): LinkEvent => ({ type: "closed", code, reason: "said by whoever closed" });
const refused = (code: string): LinkEvent => ({ type: "hello_refused", code, message: "no" });

type Ends = LinkEnd | undefined;

/** Event, what it ends while connecting, and what while open. */
const table: [name: string, event: LinkEvent, connecting: Ends, open: Ends][] = [
  ["start", { type: "start" }, undefined, undefined],
  ["stop", { type: "stop" }, undefined, undefined],
  ["timer", { type: "timer" }, undefined, undefined],
  ["socket_opened", { type: "socket_opened" }, undefined, undefined],
  ["greeted", { type: "greeted" }, undefined, undefined],
  ["closed 1006", closed(1006), "unreachable", "closed"],
  ["closed 4002", closed(4002), "removed", "removed"],
  ["closed 4003", closed(4003), "replaced", "replaced"],
  ["closed 4999", closed(4999), "unreachable", "closed"],
  ["hello refused: clock_skew", refused("clock_skew"), "refused", undefined],
  ["hello refused: what no broker says", refused('x"\n'), "refused", undefined],
  ["hello refused: identity_in_use", refused("identity_in_use"), "identity_in_use", undefined],
  ["hello refused: removed", refused("removed"), "removed", undefined],
  ["feature refused", { type: "feature_refused", kind: "k", feature: "f" }, "feature", undefined],
  ["reconnect", { type: "reconnect", why: "any text" }, "asked", "asked"],
  ["reconnect for a lane", { type: "reconnect", why: "any text", end: "lane" }, "lane", "lane"],
  ["drop", { type: "drop", why: "any text" }, "asked", "asked"],
  ["drop for silence", { type: "drop", why: "any text", end: "silence" }, "silence", "silence"],
];

const idle: LinkState[] = [
  { phase: "stopped" },
  { phase: "waiting", attempt: 1, why: "x" },
  { phase: "identity_in_use", why: "x" },
  { phase: "refused", attempt: 1, why: "x" },
  { phase: "removed", why: "x" },
];

describe.each(table)("%s", (_name, event, connecting, open) => {
  test("while there is a connection", () => {
    expect(linkEndBy({ phase: "connecting", attempt: 0 }, event)).toBe(connecting);
    expect(linkEndBy({ phase: "open", attempt: 0 }, event)).toBe(open);
  });

  test("ends nothing while there is none", () => {
    for (const state of idle)
      expect([state.phase, linkEndBy(state, event)]).toEqual([state.phase, undefined]);
  });
});

test("no name is there twice", () => {
  expect(new Set(linkEnds).size).toBe(linkEnds.length);
});
