/**
 * The daemon over TCP, for a process that may not use its Unix socket. Anybody on this host can sit on a port, so whoever
 * answers proves first that it knows the local token (GET /v1/challenge), for every request anew; only then is the token
 * shown. Never through a proxy: it would read both.
 */
import { randomBytes, timingSafeEqual } from "node:crypto";
import { readFileSync, statSync } from "node:fs";
import * as v from "valibot";
import { MeshError, messageOf, systemCodeOf } from "~/errors";
import { challengeProof } from "~/wire/challenge";
import { ChallengeReply, routes } from "~/wire/ipc";
import { challengeReplyCharsMax } from "~/wire/limits";

/** Where the daemon leaves what its owner needs to find it by TCP. */
export interface TcpFiles {
  port: string;
  token: string;
}

export type Fetch = (url: string, init: BunFetchRequestInit) => Promise<Response>;

export interface TcpWay {
  /** `http://127.0.0.1:<port>` */
  origin: string;
  token: string;
}

const nonceBytes = 32;
/** Bun reads HTTP_PROXY for every plain request; `false` keeps it out, which its types do not know. */
export const noProxy: object = { proxy: false };

/**
 * The address and the token of the daemon, after it has proved itself. Throws `sandboxed` (the error given, with why this way
 * is closed too) and `unauthorized` when somebody else answers there.
 */
export async function findTcpWay(
  files: TcpFiles,
  forbidden: MeshError,
  fetch: Fetch,
  signal: AbortSignal | null | undefined,
): Promise<TcpWay> {
  const port = read(files.port, portPattern, forbidden);
  const origin = `http://127.0.0.1:${port}`;
  // Whoever took the port of a daemon that died could have the next one, on another port, make the proof for him. That one
  // wrote its port down before it answered anybody, so that the file tells.
  const isDaemon = async (token: string): Promise<boolean> =>
    (await proves(origin, token, forbidden, fetch, signal)) &&
    read(files.port, portPattern, forbidden) === port;
  const token = read(files.token, tokenPattern, forbidden);
  if (await isDaemon(token)) return { origin, token };
  // It may just have been renewed.
  const renewed = read(files.token, tokenPattern, forbidden);
  if (renewed !== token && (await isDaemon(renewed))) return { origin, token: renewed };
  throw new MeshError(
    "unauthorized",
    `what answers on ${origin} does not know the local token: it is not the daemon; nothing was shown to it`,
    {
      hint: `Outside of the sandbox, see who listens on port ${port} (lsof -i :${port}), and restart the daemon: claudemesh daemon restart`,
      details: { port: Number(port) },
      cause: forbidden,
    },
  );
}

const portPattern = /^[1-9]\d{0,4}$/;
const tokenPattern = /^[A-Za-z0-9_-]{43}$/;

function read(path: string, pattern: RegExp, forbidden: MeshError): string {
  let text: string;
  try {
    // To read a pipe could take for ever.
    if (statSync(path).isFIFO()) throw closedToo(forbidden, `${path} is a pipe`);
    text = readFileSync(path, "utf8").trim();
  } catch (error) {
    if (error instanceof MeshError) throw error;
    const code = systemCodeOf(error);
    throw closedToo(
      forbidden,
      code === "ENOENT" ? `the daemon does not serve it (no ${path})` : `${path} cannot be read (${code})`,
    );
  }
  if (pattern.test(text)) return text;
  throw closedToo(forbidden, `${path} does not hold what it should`);
}

/** Whether the server knows the token. Throws when it cannot be asked. */
async function proves(
  origin: string,
  token: string,
  forbidden: MeshError,
  fetch: Fetch,
  signal: AbortSignal | null | undefined,
): Promise<boolean> {
  const nonce = randomBytes(nonceBytes).toString("hex");
  let text: string;
  try {
    const response = await fetch(`${origin}${routes.challenge.path}?nonce=${nonce}`, {
      ...noProxy,
      redirect: "error",
      ...(signal === undefined ? {} : { signal }),
    });
    text = await beginningOf(response);
  } catch (thrown) {
    if (signal?.aborted) throw thrown;
    throw closedToo(forbidden, `${origin} did not answer (${systemCodeOf(thrown) ?? messageOf(thrown)})`);
  }
  const reply = v.safeParse(v.pipe(v.string(), v.parseJson(), ChallengeReply), text);
  if (!reply.success) return false;
  const [given, due] = [reply.output.proof, challengeProof(token, nonce)].map((proof) => Buffer.from(proof));
  return (
    given !== undefined && due !== undefined && given.length === due.length && timingSafeEqual(given, due)
  );
}

/** Whoever answers has not proved anything yet, and may go on for ever: no more is read than a proof has. */
async function beginningOf({ body }: Response): Promise<string> {
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of body ?? []) {
    text += decoder.decode(chunk, { stream: true });
    if (text.length > challengeReplyCharsMax) break;
  }
  return text;
}

/** The Unix socket is forbidden and TCP does not help: both ways out belong in the hint. */
const closedToo = (forbidden: MeshError, why: string): MeshError =>
  new MeshError("sandboxed", `${forbidden.message}; and TCP on 127.0.0.1 is no way either: ${why}`, {
    hint: `${forbidden.hint ?? ""} Or let the daemon serve TCP (claudemesh daemon up without --no-tcp) and the sandbox read its files and connect to 127.0.0.1.`,
    details: forbidden.details,
    cause: forbidden,
  });
