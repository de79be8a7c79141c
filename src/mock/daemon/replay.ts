/**
 * Answers from a recording of the mock of the daemon: a request with what once followed from the same request, the first time with
 * what followed first, and as soon as it can be. What its answer was then (a status, bytes that are no HTTP, a cut) it is again.
 */
import type { Clock } from "~/clock";
import { errorBody, httpStatusOf, MeshError } from "~/errors";
import type { Log } from "~/log";
import type { Exchange } from "~/mock/daemon/http";
import type { Redaction } from "~/mock/daemon/redaction";
import { challengeProof } from "~/wire/challenge";
import { routes } from "~/wire/ipc";
import { ipcBodyMsMax, mockBodyMsMax, mockJsonDepthMax } from "~/wire/limits";
import type { Recorded } from "~/wire/mock-recording";
import { firstTooDeep } from "~/wire/text";

type Incoming = Extract<Recorded, { dir: "in" }>;
type Consequence = Extract<Recorded, { dir: "out" | "close" }>;

interface DaemonReplayOptions {
  token: string;
  redact: Redaction;
  clock: Clock;
  log: Log;
}

export class DaemonReplay {
  readonly #options: DaemonReplayOptions;
  /** By what is asked; in the order in which it was. */
  readonly #requests: ReadonlyMap<string, readonly Incoming[]>;
  /** How often it was asked again. */
  readonly #asked = new Map<string, number>();
  /** By the number of the request that they follow from. */
  readonly #consequences: ReadonlyMap<number, readonly Consequence[]>;
  /** Answers that go on, and the recorded connections whose part they play. */
  readonly #open = new Set<{ conn: number; exchange: Exchange }>();

  constructor(entries: readonly Recorded[], options: DaemonReplayOptions) {
    this.#options = options;
    this.#requests = Map.groupBy(
      entries.filter((entry) => entry.dir === "in"),
      ({ method = "", target = "", hex }) => questionOf(method, target, Buffer.from(hex, "hex")),
    );
    this.#consequences = Map.groupBy(
      entries.filter((entry): entry is Consequence => "after" in entry),
      ({ after = 0 }) => after,
    );
  }

  async answer(exchange: Exchange): Promise<void> {
    const { clock, redact } = this.#options;
    const { method } = exchange;
    const target = redact.text(exchange.target);
    const bodyWithin = async (ms: number): Promise<Buffer> =>
      Buffer.from(redact.bytes(await exchange.bodyBytes(clock, ms)));
    // It may have been answered without its body; otherwise that is waited for as long as the daemon does it.
    const entry =
      this.#recorded(method, target, await bodyWithin(mockBodyMsMax)) ??
      this.#recorded(method, target, await bodyWithin(ipcBodyMsMax));
    if (entry !== undefined) await this.#follow(entry, exchange);
    else if (!(await this.#proveToken(exchange))) {
      await this.#refuse(exchange, target, await bodyWithin(0));
    }
  }

  #recorded(method: string, target: string, body: Buffer): Incoming | undefined {
    const question = questionOf(method, target, body);
    const same = this.#requests.get(question);
    if (same === undefined) return undefined;
    const times = this.#asked.get(question) ?? 0;
    this.#asked.set(question, times + 1);
    return same[times] ?? same.at(-1);
  }

  /** What followed, in order: on this connection, and on those whose streams heard of it. */
  async #follow({ n, conn }: Incoming, exchange: Exchange): Promise<void> {
    const playing = { conn, exchange };
    this.#open.add(playing);
    exchange.signal.addEventListener("abort", () => this.#open.delete(playing));
    for (const entry of this.#consequences.get(n) ?? []) {
      if (entry.conn === conn) {
        await give(entry, exchange);
        if (entry.dir === "out" && entry.last) this.#open.delete(playing);
      } else {
        const others = [...this.#open].filter((other) => other.conn === entry.conn);
        await Promise.all(others.map((other) => give(entry, other.exchange)));
      }
    }
  }

  /** A client that comes over TCP asks with a number of its own each time: no recording has that. */
  async #proveToken(exchange: Exchange): Promise<boolean> {
    const { pathname, searchParams } = new URL(exchange.target, "http://localhost");
    const nonce = searchParams.get("nonce");
    if (exchange.method !== routes.challenge.method || pathname !== routes.challenge.path || nonce === null) {
      return false;
    }
    await writeJson(exchange, 200, { proof: challengeProof(this.#options.token, nonce) });
    return true;
  }

  async #refuse(exchange: Exchange, target: string, body: Buffer): Promise<void> {
    const { method } = exchange;
    const excerpt = body.length === 0 ? "" : ` with the body ${body.toString().slice(0, excerptCharsMax)}`;
    const error = new MeshError("not_recorded", `the recording has no ${method} ${target}${excerpt}`, {
      hint: "Record a run in which it is asked: claudemesh mock daemon --record FILE",
    });
    this.#options.log("warn", "not_recorded", { error: error.message });
    await writeJson(exchange, httpStatusOf(error.code), errorBody(error));
  }
}

const excerptCharsMax = 200;

/** The same for the same request. JSON is the same however it is written. */
const questionOf = (method: string, target: string, body: Buffer): string =>
  `${method} ${target}\n${sameJson(body) ?? body.toString("latin1")}`;

/** Undefined when it is none, or nests too deep to be taken apart. */
function sameJson(bytes: Buffer): string | undefined {
  const text = bytes.toString();
  if (firstTooDeep(text, mockJsonDepthMax) !== undefined) return undefined;
  try {
    return JSON.stringify(JSON.parse(text), inOrder);
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}

const inOrder = (_key: string, value: unknown): unknown =>
  typeof value === "object" && value !== null && !Array.isArray(value)
    ? Object.fromEntries(Object.entries(value).sort(([left], [right]) => (left < right ? -1 : 1)))
    : value;

async function give(entry: Consequence, exchange: Exchange): Promise<void> {
  if (entry.dir === "close") {
    exchange.cut();
    return;
  }
  const bytes = Buffer.from(entry.hex, "hex");
  if (entry.raw) return await exchange.writeRaw(bytes);
  if (entry.status !== undefined) exchange.head(entry.status, entry.headers ?? {});
  await exchange.write(bytes, { isLast: entry.last === true });
}

async function writeJson(exchange: Exchange, status: number, value: unknown): Promise<void> {
  const body = Buffer.from(JSON.stringify(value));
  exchange.head(status, { "content-type": "application/json", "content-length": String(body.length) });
  await exchange.write(body, { isLast: true });
}
