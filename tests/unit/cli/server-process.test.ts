/** What `up` makes of what the server says before it is ready: who is at work is waited for, who says nothing is not. */
import { describe, expect, test } from "bun:test";
import type { Host } from "~/cli/command";
import { openOutput } from "~/cli/output";
import { lastWord } from "~/cli/server-process";
import { hostPaths } from "~/wire/paths";

const timeoutMs = 40;

const hostWith = (interrupted: AbortSignal): Host => ({
  out: openOutput(true),
  env: {},
  paths: hostPaths({ HOME: "/nowhere" }),
  interrupted,
  ended: interrupted,
});

/** Says these lines; a number is a time in which it says nothing. */
async function* saying(...words: readonly (string | number)[]): AsyncGenerator<Uint8Array> {
  for (const word of words) {
    if (typeof word === "string") yield Buffer.from(word);
    else await Bun.sleep(word); // not a poll: the silence that this is about
  }
}

async function outcomeOf(
  stream: AsyncIterable<Uint8Array>,
  interrupted = new AbortController().signal,
): Promise<unknown> {
  try {
    return await lastWord(stream, { what: "the daemon", host: hostWith(interrupted), timeoutMs });
  } catch (error) {
    return error;
  }
}

const working = '{"working_on":"opening outbox.db (900 MB)"}\n';
const silenceMs = 50 * timeoutMs;

describe("the time that a server has to get ready", () => {
  test("does not count while it is at work", async () => {
    const stream = saying(working, 3 * timeoutMs, '{"working_on":null}\n{"pi', 'd":7}\n');
    expect(await outcomeOf(stream)).toEqual({ pid: 7 });
  });

  test("begins anew when the work is over", async () => {
    expect(await outcomeOf(saying(working, '{"working_on":null}\n', silenceMs))).toMatchObject({
      code: "timed_out",
    });
  });

  test("counts when it says nothing", async () => {
    expect(await outcomeOf(saying(silenceMs, '{"pid":7}\n'))).toMatchObject({ code: "timed_out" });
  });

  test("is over when we are interrupted, at work or not", async () => {
    const interrupt = new AbortController();
    const ended = outcomeOf(saying(working, silenceMs), interrupt.signal);
    interrupt.abort();
    expect(await ended).toMatchObject({ code: "interrupted" });
  });
});

test("a server that ends without a word has none", async () => {
  expect(await outcomeOf(saying())).toBeUndefined();
});
