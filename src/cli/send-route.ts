/**
 * The ways a message can take, in order: the daemon, a session's bridge, straight to the broker. The next way is taken only
 * when the one before is absent. Once a request may have been taken it is repeated under the same id on the same way,
 * which makes it one message, and never anywhere else.
 */
import { usageError } from "~/cli/argv";
import type { Host } from "~/cli/command";
import { daemonClient } from "~/cli/daemon-client";
import { type Client, openClient } from "~/client/client";
import { systemClock } from "~/clock";
import { MeshError } from "~/errors";
import type { SendRequestInput } from "~/wire/ipc";
import type { Ephemeral } from "~/wire/reply";

export type RouteName = "daemon" | "bridge" | "cold";

export interface Sent {
  client_message_id: string;
  status: "queued" | "inflight" | "accepted";
  route: RouteName;
  broker_message_id?: string;
  duplicate: boolean;
  /** The daemon that has it keeps nothing beyond its own end. */
  ephemeral?: Ephemeral;
  /** Whom to ask what became of it; the cold way leaves nobody. */
  client?: Client;
}

/** A request that always names its id: without one a repeat would be a second message. */
export type NamedRequest = SendRequestInput & { client_message_id: string };

interface Delivery {
  host: Host;
  only: RouteName | undefined;
  remainingMs: () => number;
}

const retryDelayMs = 100;
/** How long a daemon that went away while it had our request is waited for: a restart takes less. */
const retryMsMax = 5_000;

export async function deliver(request: NamedRequest, { host, only, remainingMs }: Delivery): Promise<Sent> {
  const bridgeSocket = host.env.CLAUDEMESH_BRIDGE_SOCK;
  const attempts: Record<RouteName, (() => Promise<Sent>) | undefined> = {
    daemon: () => sendThrough("daemon", daemonClient(host), request, remainingMs),
    bridge: bridgeSocket
      ? () => sendThrough("bridge", openClient({ socketPath: bridgeSocket }), request, remainingMs)
      : undefined,
    cold: () => sendStraight(request, host, remainingMs, only === "cold"),
  };
  if (only !== undefined) {
    const attempt = attempts[only];
    if (attempt === undefined)
      throw usageError("--route bridge needs CLAUDEMESH_BRIDGE_SOCK, which is not set");
    return await attempt();
  }
  for (const name of ["daemon", "bridge"] as const) {
    const sent = await unlessAbsent(attempts[name]);
    if (sent !== undefined) return sent;
  }
  return await sendStraight(request, host, remainingMs, false);
}

async function unlessAbsent(attempt: (() => Promise<Sent>) | undefined): Promise<Sent | undefined> {
  try {
    return await attempt?.();
  } catch (error) {
    if (error instanceof MeshError && error.code === "daemon_unreachable") return undefined;
    throw error;
  }
}

async function sendThrough(
  route: "daemon" | "bridge",
  client: Client,
  request: NamedRequest,
  remainingMs: () => number,
): Promise<Sent> {
  const giveUpMs = systemClock.monotonicMs() + retryMsMax;
  let lost: MeshError | undefined;
  for (;;) {
    try {
      const { client_message_id, status, duplicate, broker_message_id, ephemeral } = await client.call(
        "send",
        {
          body: request,
          timeoutMs: remainingMs(),
        },
      );
      return {
        client_message_id,
        status,
        route,
        ...(broker_message_id === undefined ? {} : { broker_message_id }),
        ...(ephemeral === undefined ? {} : { ephemeral }),
        // Of our own repeat nobody needs to be told.
        duplicate: duplicate && lost === undefined,
        client,
      };
    } catch (error) {
      if (!(error instanceof MeshError)) throw error;
      if (error.code === "timed_out")
        throw mayBeQueued("timed_out", "did not answer in time", request, error);
      if (error.code === "answer_lost") lost = error;
      else if (lost === undefined || !isPassing(error)) throw error;
      if (systemClock.monotonicMs() >= giveUpMs || remainingMs() <= retryDelayMs) {
        throw mayBeQueued("answer_lost", "went away before it answered", request, lost);
      }
      await new Promise<void>((resolve) => void systemClock.after(retryDelayMs, resolve));
    }
  }
}

/** What a daemon that is being restarted answers on the way. */
const isPassing = ({ code }: MeshError): boolean =>
  code === "daemon_unreachable" || code === "daemon_stopping";

const mayBeQueued = (
  code: "answer_lost" | "timed_out",
  what: string,
  { client_message_id }: NamedRequest,
  cause: MeshError,
): MeshError =>
  new MeshError(code, `the daemon ${what}; it may have taken the message`, {
    hint: `Repeat the same command with --id ${client_message_id} once it answers again: it stays one message.`,
    details: { client_message_id },
    cause,
  });

/** One connection to the broker, one send, one answer. */
async function sendStraight(
  request: NamedRequest,
  { paths, out }: Host,
  remainingMs: () => number,
  asked: boolean,
): Promise<Sent> {
  const [{ readConfig }, { sendCold }] = await Promise.all([
    import("~/identity/config"),
    import("~/link/cold"),
  ]);
  const config = readConfig(paths.configFile);
  if (config.meshes.length > 0) {
    const why = asked
      ? "sending straight to the broker"
      : "no daemon is running: sending straight to the broker";
    await out.note(
      `warning: ${why}; nothing is kept on this host. To keep messages here: claudemesh daemon up`,
    );
  }
  try {
    const { client_message_id, broker_message_id, duplicate } = await sendCold({
      config,
      request,
      timeoutMs: remainingMs(),
    });
    return { client_message_id, status: "accepted", route: "cold", broker_message_id, duplicate };
  } catch (error) {
    if (asked || !(error instanceof MeshError) || error.code !== "broker_unreachable") throw error;
    throw new MeshError("broker_unreachable", `no daemon is running, and ${error.message}`, {
      hint: "With a daemon (claudemesh daemon up) the message would wait on this host until the broker is back.",
      details: error.details,
      cause: error,
    });
  }
}
