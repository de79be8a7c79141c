/**
 * How requests reach the daemon: over its Unix socket and, where a sandbox forbids that, over TCP on the loopback address
 * (tcp.ts). A request is made a second time only when the first could not even connect. What the daemon says of itself on
 * every answer (its version) is heard here, so that no command needs to ask for it.
 */
import type { Fetch, TcpFiles } from "~/client/tcp";
import type { MeshError } from "~/errors";
import { version } from "~/version";
import { checkSocketPath } from "~/wire/paths";
import { versionHeader } from "~/wire/place";

export interface Way {
  readonly socketPath: string;
  /** Why requests go over TCP, once they do. A daemon started from here could not listen on its socket either. */
  readonly forbidden: MeshError | undefined;
  /** `target` is the path with its query. Rejects with what `fetch` threw, or with a MeshError of tcp.ts or failure.ts. */
  request(target: string, init: BunFetchRequestInit): Promise<Response>;
}

export interface WayOptions {
  socketPath: string;
  /** Where to find the daemon by TCP; without it the socket is the only way. */
  tcp?: TcpFiles | undefined;
  /** Is told each thing that a person should know, once. */
  tell?: ((text: string) => void | Promise<void>) | undefined;
  /** Leaves out what to do about a daemon of another version: for who is about to do it. */
  endsSkew?: boolean;
  fetch?: Fetch;
}

/** Throws `socket_path_too_long`; connects only when something is requested. */
export function openWay({
  socketPath,
  tcp,
  tell,
  endsSkew = false,
  fetch = globalThis.fetch,
}: WayOptions): Way {
  checkSocketPath(socketPath);
  const told = new Set<string>();
  const tellOnce = async (text: string | undefined): Promise<void> => {
    if (text === undefined || told.has(text)) return;
    told.add(text);
    await tell?.(text);
  };
  /** Set once the socket was refused to us: that does not change while we run. */
  let forbidden: MeshError | undefined;

  const overSocket = async (target: string, init: BunFetchRequestInit): Promise<Response> => {
    // Root may use everybody's, and need not wait for what looks at it.
    if (process.getuid?.() !== 0) {
      const { anothersSocket } = await import("~/client/failure");
      const refusal = anothersSocket(socketPath);
      if (refusal !== undefined) throw refusal;
    }
    return await fetch(`http://localhost${target}`, { ...init, unix: socketPath });
  };

  const overTcp = async (
    files: TcpFiles,
    why: MeshError,
    target: string,
    init: BunFetchRequestInit,
  ): Promise<Response> => {
    const { findTcpWay, noProxy } = await import("~/client/tcp");
    const { origin, token } = await findTcpWay(files, why, fetch, init.signal);
    await tellOnce(`note: ${why.message}; going through ${origin} instead`);
    const headers = new Headers(init.headers);
    headers.set("authorization", `Bearer ${token}`);
    return await fetch(origin + target, { ...init, ...noProxy, headers });
  };

  const send = async (target: string, init: BunFetchRequestInit): Promise<Response> => {
    if (tcp === undefined) return await overSocket(target, init);
    if (forbidden !== undefined) return await overTcp(tcp, forbidden, target, init);
    try {
      return await overSocket(target, init);
    } catch (thrown) {
      const { connectionFailure, isAnotherUsers } = await import("~/client/failure");
      const failure = connectionFailure(thrown, socketPath);
      if (failure.code !== "sandboxed" || isAnotherUsers(failure)) throw thrown;
      forbidden = failure;
    }
    return await overTcp(tcp, forbidden, target, init);
  };

  return {
    socketPath,
    get forbidden() {
      return forbidden;
    },
    async request(target, init) {
      const response = await send(target, init);
      const skew = endsSkew ? undefined : versionSkew(response.headers.get(versionHeader) ?? version);
      await tellOnce(skew && `warning: ${skew}`);
      return response;
    },
  };
}

/** What to tell the user when the daemon is of another version than this command; undefined when they agree. */
export function versionSkew(daemonVersion: string): string | undefined {
  if (daemonVersion === version) return undefined;
  const differ = `the daemon runs version ${daemonVersion}, this command is ${version}`;
  return isNewer(daemonVersion)
    ? `${differ}. Use the newer executable here too; or, to run this older one as the daemon: claudemesh daemon restart`
    : `${differ}. To make them one: claudemesh daemon restart`;
}

const versionPattern = /^\d+\.\d+\.\d+/;
const isNewer = (daemonVersion: string): boolean =>
  versionPattern.test(daemonVersion) && Bun.semver.order(daemonVersion, version) > 0;
