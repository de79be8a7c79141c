/**
 * A mesh of real processes, set up by the commands that a user types: a broker, and members with a home directory and a daemon
 * each. Nothing here looks into src for help, except for the schemas that every answer must fit.
 */
import { Database } from "bun:sqlite";
import { mkdirSync, readFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import * as v from "valibot";
import { HealthReply, InboxReply, OutboxReply, OutboxRowReply, SentMessage } from "~/wire/ipc";
import { SendReply } from "~/wire/reply";
import { cleanup } from "./cleanup";
import { type CliOptions, type CliResult, type RunningCli, runCli, spawnCli } from "./cli";
import { tempDir } from "./temp-dir";
import { waitFor } from "./wait-for";

export interface HttpAnswer {
  status: number;
  headers: Headers;
  /** Parsed; undefined when it is not JSON. */
  body: unknown;
  text: string;
}

export interface RequestOptions {
  method?: string;
  /** Sent as JSON, unless it is text or bytes already. */
  body?: unknown;
  headers?: Record<string, string>;
  signal?: AbortSignal;
}

export interface SendFields {
  client_message_id?: string;
  priority?: "now" | "next" | "low";
  meta?: Record<string, unknown> | null;
  reply_to_id?: string;
  mesh?: string;
}

/** One of `config.json`'s meshes, as far as tests look into it. */
const Entry = v.looseObject({
  meshId: v.string(),
  memberId: v.string(),
  slug: v.string(),
  pubkey: v.string(),
  secretKey: v.string(),
  brokerUrl: v.string(),
});
const ConfigFile = v.looseObject({ meshes: v.array(Entry) });
const BrokerUp = v.object({ pid: v.number(), url: v.string(), started: v.boolean() });
const DaemonUp = v.object({ pid: v.number(), socket: v.string(), started: v.boolean() });

/** A host: its directories, its commands, its daemon. */
export class Member {
  readonly name: string;
  readonly configDir: string;
  readonly daemonDir: string;
  readonly socket: string;
  readonly env: Record<string, string>;
  #daemon: RunningCli | undefined;

  constructor(name: string, dir: string, env: Record<string, string> = {}) {
    this.name = name;
    this.configDir = dir;
    this.daemonDir = join(dir, "daemon");
    this.socket = join(this.daemonDir, "daemon.sock");
    this.env = { HOME: dir, CLAUDEMESH_CONFIG_DIR: dir, ...env };
  }

  get configFile(): string {
    return join(this.configDir, "config.json");
  }

  /** What config.json says of the only (or first) mesh. */
  get entry(): v.InferOutput<typeof Entry> {
    const [entry] = v.parse(ConfigFile, JSON.parse(readFileSync(this.configFile, "utf8"))).meshes;
    if (entry === undefined) throw new Error(`${this.name} is in no mesh`);
    return entry;
  }

  get pubkey(): string {
    return this.entry.pubkey;
  }

  get daemonPid(): number {
    if (this.#daemon === undefined) throw new Error(`the daemon of ${this.name} does not run`);
    return this.#daemon.pid;
  }

  /** What the daemon in the foreground has logged since it started. */
  get log(): string {
    return this.#daemon?.stderr() ?? "";
  }

  // ── Commands ──────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Runs a command as this host, whatever comes of it. */
  cli(
    args: readonly string[],
    { env = {}, ...options }: CliOptions & { stdin?: string; timeoutMs?: number } = {},
  ): Promise<CliResult> {
    return runCli(args, { ...options, env: { ...this.env, ...env } });
  }

  /** Runs a command that must succeed. */
  async run(args: readonly string[], options: Parameters<Member["cli"]>[1] = {}): Promise<CliResult> {
    const result = await this.cli(args, options);
    if (result.exitCode === 0) return result;
    throw new Error(
      `claudemesh ${args.join(" ")} (${this.name}) ended with ${result.exitCode}\n${result.stdout}${result.stderr}`,
    );
  }

  /** Runs a command that must succeed, with `--json`, and what it printed. */
  async json(args: readonly string[], options: Parameters<Member["cli"]>[1] = {}): Promise<unknown> {
    return (await this.run([...args, "--json"], options)).json();
  }

  /** Starts a command that goes on running. */
  spawn(args: readonly string[], { env = {}, ...options }: CliOptions = {}): RunningCli {
    return spawnCli(args, { ...options, env: { ...this.env, ...env } });
  }

  // ── The daemon ────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Starts the daemon in the foreground; resolves when it serves. */
  async up(flags: readonly string[] = ["--no-tcp"], options: CliOptions = {}): Promise<number> {
    const daemon = this.spawn(["daemon", "up", "--foreground", ...flags, "--json"], options);
    await daemon.waitForOutput(/"started":\s*true/);
    this.#daemon = daemon;
    return v.parse(DaemonUp, JSON.parse(daemon.stdout())).pid;
  }

  /** Ends the daemon with a signal and waits until it is gone. */
  async kill(signal: NodeJS.Signals = "SIGKILL"): Promise<CliResult> {
    const daemon = this.#daemon;
    if (daemon === undefined) throw new Error(`the daemon of ${this.name} does not run`);
    this.#daemon = undefined;
    return await daemon.stop(signal);
  }

  async down(): Promise<CliResult> {
    return await this.kill("SIGTERM");
  }

  /** Stops the process without ending it, as a machine that is suspended does. */
  freeze(): void {
    process.kill(this.daemonPid, "SIGSTOP");
  }

  thaw(): void {
    process.kill(this.daemonPid, "SIGCONT");
  }

  // ── The local API ─────────────────────────────────────────────────────────────────────────────────────────────────

  async request(path: string, options: RequestOptions = {}): Promise<HttpAnswer> {
    return await ask(`http://localhost${path}`, { unix: this.socket }, options);
  }

  /** A GET that must be answered with 200. */
  async get(path: string): Promise<unknown> {
    const { status, body, text } = await this.request(path);
    if (status !== 200) throw new Error(`GET ${path} (${this.name}): ${status} ${text}`);
    return body;
  }

  /** `POST /v1/send`, whatever comes of it. */
  async post(to: string, message: string, fields: SendFields = {}): Promise<HttpAnswer> {
    return await this.request("/v1/send", { method: "POST", body: { to, message, ...fields } });
  }

  /** `POST /v1/send` that must be taken. */
  async send(to: string, message: string, fields: SendFields = {}): Promise<SendReply> {
    const { status, body, text } = await this.post(to, message, fields);
    if (status === 200 || status === 202) return v.parse(SendReply, body);
    throw new Error(`a send was refused (${this.name}): ${status} ${text}`);
  }

  /** Everything in the inbox, in order. */
  async inbox(): Promise<InboxReply["items"]> {
    const items: InboxReply["items"] = [];
    let after = "0";
    for (;;) {
      const page = v.parse(InboxReply, await this.get(`/v1/inbox?after=${after}&limit=500`));
      items.push(...page.items);
      if (page.next_cursor === undefined) return items;
      after = page.next_cursor;
    }
  }

  async bodies(): Promise<(string | null)[]> {
    return (await this.inbox()).map(({ body }) => body);
  }

  async problems(): Promise<NonNullable<InboxReply["problems"]>> {
    return v.parse(InboxReply, await this.get("/v1/inbox?problems=1&limit=500")).problems ?? [];
  }

  /** Waits until the inbox holds this many messages; what it holds then. */
  async received(count: number, timeoutMs = 10_000): Promise<InboxReply["items"]> {
    return await waitFor(
      async () => {
        const items = await this.inbox();
        return items.length >= count ? items : undefined;
      },
      { what: `${this.name} to have ${count} messages`, timeoutMs },
    );
  }

  async outbox(query = ""): Promise<OutboxReply> {
    return v.parse(OutboxReply, await this.get(`/v1/outbox?limit=500${query}`));
  }

  async row(id: string): Promise<OutboxRowReply> {
    return v.parse(OutboxRowReply, await this.get(`/v1/outbox/${id}`));
  }

  async message(id: string): Promise<SentMessage> {
    return v.parse(SentMessage, await this.get(`/v1/messages/${id}`));
  }

  /** Waits until the sent message has this status. */
  async reaches(id: string, status: SentMessage["status"], timeoutMs = 10_000): Promise<SentMessage> {
    return await waitFor(
      async () => {
        const message = await this.message(id);
        return message.status === status ? message : undefined;
      },
      { what: `message ${id} of ${this.name} to be ${status}`, timeoutMs },
    );
  }

  /** Without what the machine under the tests lacks: an image for CI may have nothing to be recognised by. */
  async health(): Promise<HealthReply> {
    const { problems, ...health } = v.parse(HealthReply, await this.get("/v1/health"));
    return { ...health, problems: problems.filter(({ code }) => !ofThisMachine.includes(code)) };
  }

  /** The state of the link to the only (or first) mesh. */
  async link(): Promise<string | undefined> {
    return Object.values((await this.health()).meshes)[0]?.link;
  }

  async connected(timeoutMs = 10_000): Promise<void> {
    await waitFor(async () => (await this.link()) === "open", {
      what: `${this.name} to be connected`,
      timeoutMs,
    });
  }

  /** Waits until this member can be sent to `name`, having heard of it from the broker. */
  async knows(name: string, timeoutMs = 10_000): Promise<void> {
    await waitFor(
      async () => {
        const peers = v.parse(PeerNames, await this.get("/v1/peers?all=1")).peers;
        return peers.some((peer) => peer.name === name);
      },
      { what: `${this.name} to know ${name}`, timeoutMs },
    );
  }

  /** Opens a database of the daemon, which must not run: `outbox`, `inbox` or `directory`. */
  database(name: "outbox" | "inbox" | "directory"): Database {
    if (this.#daemon !== undefined) throw new Error(`the daemon of ${this.name} runs`);
    return new Database(join(this.daemonDir, `${name}.db`), { readwrite: true, create: false });
  }
}

const ofThisMachine = ["host_unidentifiable", "host_id_unreadable"];

const PeerNames = v.object({ peers: v.array(v.object({ name: v.string() })) });

/** A broker in the foreground, in a directory of its own. */
export class BrokerProcess {
  readonly dataDir: string;
  readonly env: Record<string, string>;
  #process: RunningCli | undefined;
  #url = "";

  constructor(dataDir: string) {
    this.dataDir = dataDir;
    this.env = { CLAUDEMESH_BROKER_DATA: dataDir };
  }

  get url(): string {
    return this.#url;
  }

  get httpUrl(): string {
    return new URL(this.#url.replace(/^ws/, "http")).origin;
  }

  get pid(): number {
    if (this.#process === undefined) throw new Error("the broker does not run");
    return this.#process.pid;
  }

  get log(): string {
    return this.#process?.stderr() ?? "";
  }

  /** On any free port the first time, and then on the same one. */
  async up(flags: readonly string[] = []): Promise<void> {
    const port = this.#url === "" ? "0" : new URL(this.#url).port;
    const args = ["broker", "up", "--foreground", "--port", port, ...flags, "--json"];
    const broker = spawnCli(args, { env: this.env });
    await broker.waitForOutput(/"started":\s*true/);
    this.#url = v.parse(BrokerUp, JSON.parse(broker.stdout())).url;
    this.#process = broker;
  }

  async kill(signal: NodeJS.Signals = "SIGKILL"): Promise<void> {
    const broker = this.#process;
    if (broker === undefined) throw new Error("the broker does not run");
    this.#process = undefined;
    await broker.stop(signal);
  }

  async down(): Promise<void> {
    await this.kill("SIGTERM");
  }

  freeze(): void {
    process.kill(this.pid, "SIGSTOP");
  }

  thaw(): void {
    process.kill(this.pid, "SIGCONT");
  }
}

export interface MeshOptions<Name extends string> {
  /** The first one creates the mesh and owns it. */
  members: readonly [Name, ...Name[]];
  /** Whose daemons are started; default: everybody's. */
  daemons?: readonly Name[];
  slug?: string;
  /** The address that members are told, when something stands between them and the broker. */
  brokerUrl?: (url: string) => string;
}

export type TestMesh<Name extends string> = Record<Name, Member> & {
  broker: BrokerProcess;
  slug: string;
  dir: string;
  owner: Member;
  /** Invites a new member, who joins; its daemon is not started. `host`: which host it is, when the name is taken. */
  join(name: string, host?: string): Promise<Member>;
};

/** Starts a broker, makes a mesh, has everybody join, and starts the daemons; they are connected and know each other. */
export async function startMesh<Name extends string>(options: MeshOptions<Name>): Promise<TestMesh<Name>> {
  const dir = tempDir();
  const slug = options.slug ?? "team";
  const broker = new BrokerProcess(newDirectory(dir, "broker"));
  await broker.up();
  const url = options.brokerUrl?.(broker.url) ?? broker.url;
  const [ownerName, ...others] = options.members;
  const owner = newMember(ownerName, dir, broker.env);
  await owner.run(["mesh", "create", slug, "--broker", url, "--display-name", ownerName]);
  const join = async (name: string, host = name): Promise<Member> => {
    const member = newMember(host, dir);
    const invite = v.parse(InviteLink, await owner.json(["mesh", "invite"]));
    await member.run(["join", invite.link, "--name", name]);
    return member;
  };
  const members: [string, Member][] = [[ownerName, owner]];
  for (const name of others) members.push([name, await join(name)]);
  const daemons = (options.daemons ?? options.members).map((name) => {
    const found = members.find(([known]) => known === name)?.[1];
    if (found === undefined) throw new Error(`no member ${name}`);
    return found;
  });
  await Promise.all(daemons.map((member) => member.up()));
  await Promise.all(daemons.map((member) => member.connected()));
  for (const member of daemons) {
    for (const [name] of members) if (name !== member.name) await member.knows(name);
  }
  // Every name of the type parameter is a key: `members` was made from the same list.
  return { ...Object.fromEntries(members), broker, slug, dir, owner, join } as TestMesh<Name>;
}

const InviteLink = v.object({ link: v.string(), expires_at: v.string() });

export function newMember(name: string, dir: string = tempDir(), env: Record<string, string> = {}): Member {
  return new Member(name, newDirectory(dir, name), env);
}

function newDirectory(dir: string, name: string): string {
  const path = join(dir, name);
  mkdirSync(path, { mode: 0o700 });
  return path;
}

/** One request on a connection of its own: none of a daemon that was killed meanwhile is used again. */
export async function ask(
  url: string,
  { unix }: { unix?: string },
  { method = "GET", body, headers = {}, signal }: RequestOptions = {},
): Promise<HttpAnswer> {
  const response = await fetch(url, {
    ...(unix === undefined ? {} : { unix }),
    method,
    headers: { ...(body === undefined ? {} : { "content-type": "application/json" }), ...headers },
    ...(body === undefined ? {} : { body: bodyOf(body) }),
    ...(signal === undefined ? {} : { signal }),
    keepalive: false,
    redirect: "manual",
  });
  const text = await response.text();
  return { status: response.status, headers: response.headers, body: parseJson(text), text };
}

const bodyOf = (body: unknown): string | Uint8Array<ArrayBuffer> => {
  if (typeof body === "string") return body;
  return body instanceof Uint8Array ? new Uint8Array(body) : JSON.stringify(body);
};

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** A connection on which a test says bytes that no HTTP client would. */
export interface RawConnection {
  write(bytes: string | Uint8Array): void;
  /** Everything received so far. */
  received(): string;
  /** Reads nothing more, until `resume`. */
  pause(): void;
  resume(): void;
  isClosed(): boolean;
  end(): void;
}

export async function openRaw(
  target: { path: string } | { port: number; host?: string },
): Promise<RawConnection> {
  let received = "";
  let closed = false;
  const socket = await new Promise<Socket>((resolve, reject) => {
    const opened = connect(target, () => resolve(opened));
    opened.once("error", reject);
  });
  socket.on("error", () => {
    closed = true;
  });
  socket.on("close", () => {
    closed = true;
  });
  socket.on("data", (chunk) => {
    received += chunk.toString("utf8");
  });
  cleanup(() => {
    socket.destroy();
  });
  return {
    write: (bytes) => void socket.write(bytes),
    received: () => received,
    pause: () => void socket.pause(),
    resume: () => void socket.resume(),
    isClosed: () => closed,
    end: () => void socket.destroy(),
  };
}
