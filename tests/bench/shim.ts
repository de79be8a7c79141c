/**
 * The agent shim: what its start costs, how soon a message is typed, how fast an agent that pours is followed and whether anybody else
 * has a turn meanwhile, and what that does to its memory.
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { loadProfile } from "~/agent/profile";
import { type BenchShim, openShim } from "./hosted";
import { type Latencies, summary } from "./measure";
import { commandTimes, memory } from "./process";
import { buildReference } from "./reference";

type Env = Record<string, string>;

const megabyte = 1_000_000;
const linesMegabytes = 50;
const yesMegabytes = 4;
/** The best of so many counts: the machine may have other work. */
const runs = 3;
const starts = 10;
/** An agent counts as at work for a while after each message, so that several take turns. */
const agents = 10;
const messages = 200;
const memoryAtMegabytes = [50, 200, 1000];

export async function benchShim(root: string): Promise<void> {
  const env = { PATH: process.env.PATH ?? "", HOME: root };
  await reportStart(root, env);
  await reportTyping(root, env);
  const lines = join(root, "lines.txt");
  writeFileSync(lines, linesOf(linesMegabytes * megabyte));
  console.log(`Following an agent that pours: the best of ${runs} runs`);
  await reportFollowing(env, `${linesMegabytes} MB of 80-column lines`, linesMegabytes, `cat ${lines}`);
  const yes = `yes | head -c ${yesMegabytes * megabyte}`;
  await reportFollowing(env, `${yesMegabytes} MB of yes`, yesMegabytes, yes);
  console.log("");
  await reportMemory(env, lines);
}

// ── The start ───────────────────────────────────────────────────────────────────────────────────────────────────────

/** The first prompt is believed when nothing has come for a time that the profile says. */
async function reportStart(root: string, env: Env): Promise<void> {
  const hello = commandTimes(await buildReference(root, "hello"), env, 2 * starts);
  const { settle_ms: settleMs } = loadProfile("generic", root);
  const eachMs: number[] = [];
  for (let start = 0; start < starts; start++) {
    const shim = await openShim(env, ["sh"]);
    eachMs.push(shim.startMs);
    await shim.workToDeath("exit");
    await shim.end();
  }
  const ownMs = summary(eachMs, 1).p50Ms - settleMs;
  console.log(
    `Start of a shim: from exec to the first StateChanged, less the ${settleMs} ms that a prompt must stand, p50`,
  );
  console.log(`  a compiled hello world, whole                    ${hello.p50Ms.toFixed(1)} ms`);
  console.log(`  claudemesh shim, a shell in it                   ${ownMs.toFixed(1)} ms`);
  console.log(`shim / hello world                                 ${(ownMs / hello.p50Ms).toFixed(2)}\n`);
}

// ── Typing ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/**
 * The agent tells us on a socket of its own that it has read a line, which makes each figure a little too large; so it does in the
 * reference. That takes turns with the shims, since whoever has just had nothing to do is slower.
 */
async function reportTyping(root: string, env: Env): Promise<void> {
  const reports = listenForReports(join(root, "reports"));
  const agent = [...(await buildReference(root, "agent")), reports.path];
  const relay = await openRelay([...(await buildReference(root, "relay")), ...agent], reports.next());
  const turns: { shim: BenchShim; free: Promise<void> }[] = [];
  for (let n = 0; n < agents; n++) {
    turns.push({ shim: await openShim(env, agent, ["--profile", "generic"]), free: Promise.resolve() });
  }
  const [typedMs, relayedMs]: [number[], number[]] = [[], []];
  const timed = async (eachMs: number[], send: () => void): Promise<void> => {
    const reported = reports.next();
    const begunMs = performance.now();
    send();
    await reported;
    eachMs.push(performance.now() - begunMs);
  };
  for (let round = 0; round < messages / agents; round++) {
    for (const turn of turns) {
      await turn.free;
      await timed(typedMs, () => {
        turn.free = turn.shim.work("hello");
      });
      await timed(relayedMs, () => relay.type("\n"));
    }
  }
  await Promise.all(turns.map(({ free }) => free));
  await Promise.all([relay.end(), ...turns.map(({ shim }) => shim.end())]);
  reports.close();
  const [typed, relayed] = [summary(typedMs, 1), summary(relayedMs, 1)];
  const line = (what: string, { p50Ms, p99Ms }: Latencies): string =>
    `  ${what.padEnd(46)}   p50 ${p50Ms.toFixed(3).padStart(7)} ms   p99 ${p99Ms.toFixed(3).padStart(7)} ms`;
  console.log(`A message typed: from the frame to the agent that has read it, ${messages} times`);
  console.log(line("a byte through a bare socket pair and terminal", relayed));
  console.log(line(`SendMessage, ${agents} agents by turns`, typed));
  console.log(
    `p50 / bare p50                                     ${(typed.p50Ms / relayed.p50Ms).toFixed(2)}\n`,
  );
}

function listenForReports(path: string) {
  let reported = Promise.withResolvers<void>();
  const listener = Bun.listen({
    unix: path,
    socket: { open: () => reported.resolve(), data: () => reported.resolve() },
  });
  return {
    path,
    /** The next report, or that an agent is there. */
    next(): Promise<void> {
      reported = Promise.withResolvers();
      return reported.promise;
    },
    close: () => listener.stop(true),
  };
}

async function openRelay(words: readonly string[], agentIsThere: Promise<void>) {
  const child = Bun.spawn([...words], { stdio: ["ignore", "ignore", "inherit", "pipe"] });
  const fd = child.stdio[3];
  if (typeof fd !== "number") throw new Error("the relay has no socket");
  const socket = await Bun.connect({ fd, socket: { data: () => undefined } });
  await agentIsThere;
  return {
    type: (text: string) => void socket.write(text),
    async end() {
      socket.end();
      await child.exited;
    },
  };
}

// ── Following ───────────────────────────────────────────────────────────────────────────────────────────────────────

/** `program`: words of a shell, which print that many megabytes. */
async function reportFollowing(env: Env, what: string, megabytes: number, program: string): Promise<void> {
  const [followed, bare, pingsMs]: [number[], number[], number[]] = [[], [], []];
  for (let run = 0; run < runs; run++) {
    const shim = await openShim(env, ["sh"]);
    const begunMs = performance.now();
    const died = shim.workToDeath(`${program}; exit`).then(() => {
      followed.push(megabytes / ((performance.now() - begunMs) / 1000));
    });
    pingsMs.push(await shim.slowestPingMs(died));
    await shim.end();
    bare.push(megabytes / (await bareSeconds(env, program, megabytes * megabyte)));
  }
  const [best, bestBare] = [Math.max(...followed), Math.max(...bare)];
  console.log(
    `  ${what.padEnd(26)} ${best.toFixed(1).padStart(5)} MB / s; thrown away unseen, ${bestBare.toFixed(1)} MB / s`,
  );
  console.log(`  followed / thrown away                           ${(best / bestBare).toFixed(2)}`);
  console.log(
    `  slowest Ping meanwhile                           ${Math.min(...pingsMs).toFixed(0)} ms; in the worst run ${Math.max(...pingsMs).toFixed(0)} ms`,
  );
}

/** The same program in the same kind of terminal, whose output is thrown away. */
async function bareSeconds(env: Env, program: string, bytes: number): Promise<number> {
  let readBytes = 0;
  const atEnd = Promise.withResolvers<void>();
  const begunMs = performance.now();
  const child = Bun.spawn(["sh", "-c", program], {
    env,
    terminal: {
      rows: 50,
      cols: 220,
      data(_, part) {
        readBytes += part.length;
      },
      exit: () => atEnd.resolve(),
    },
  });
  await child.exited;
  await atEnd.promise;
  const seconds = (performance.now() - begunMs) / 1000;
  if (readBytes < bytes) throw new Error(`${program} printed ${readBytes} bytes instead of ${bytes}`);
  return seconds;
}

/** 79 characters and a newline each. */
function linesOf(bytes: number): string {
  const text = " The quick brown fox jumps over the lazy dog, and the dog does not mind it at all.";
  const lines = Array.from({ length: bytes / 80 }, (_, n) => `${`${n}${text}`.slice(0, 79)}\n`);
  return lines.join("");
}

// ── Memory ──────────────────────────────────────────────────────────────────────────────────────────────────────────

async function reportMemory(env: Env, lines: string): Promise<void> {
  const shim = await openShim(env, ["sh"]);
  const row = (when: string): void => {
    const { residentMiB, privateMiB, peakMiB } = memory(shim.pid);
    console.log(
      `  ${when.padEnd(14)} ${residentMiB.toFixed(0).padStart(4)} MiB resident, ${privateMiB.toFixed(0)} of them its own; at most ${peakMiB.toFixed(0)} so far`,
    );
  };
  console.log("Memory of a shim over its agent's output, in answers that are too long for a frame");
  row("at the start");
  let printedMegabytes = 0;
  for (const megabytes of memoryAtMegabytes) {
    const files = Array.from({ length: (megabytes - printedMegabytes) / linesMegabytes }, () => lines);
    await shim.work(`cat ${files.join(" ")}`);
    printedMegabytes = megabytes;
    row(`after ${megabytes} MB`);
  }
  await shim.workToDeath("exit");
  await shim.end();
  console.log("");
}
