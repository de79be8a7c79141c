/**
 * A Unix socket for its owner alone, for whoever is told where to listen. Its file appears only when connecting to it works, and
 * what may still be in use is never removed.
 */
import { linkSync, lstatSync, renameSync } from "node:fs";
import { dirname, join } from "node:path";
import { removeFile, storageError } from "~/disk/file";
import { MeshError, messageOf, systemCodeOf } from "~/errors";
import { staleSocketMsMax } from "~/wire/limits";
import { checkSocketPath, isSocketPathTooLong } from "~/wire/paths";

export interface SocketListener {
  /** No new connections; removes the file. Connections that are open stay. */
  close(): void;
}

/** Throws what `giveSocket` does. */
export const listenOnSocket = <Data>(
  path: string,
  socket: Bun.SocketHandler<Data>,
  { allowHalfOpen = false } = {},
): Promise<SocketListener> => giveSocket(path, (unix) => Bun.listen<Data>({ unix, socket, allowHalfOpen }));

/** What listens somewhere. */
export interface Bound {
  stop(endsConnections: boolean): void;
}

/**
 * Has `bind` listen where `path` leads to, for servers of every kind: once it is called, the place is free, and what else may fail can
 * be done in it. Throws `already_running` when somebody listens there, `path_unsafe`, `socket_path_too_long`, `storage_*`.
 */
export async function giveSocket(
  path: string,
  bind: (path: string) => Bound | Promise<Bound>,
): Promise<SocketListener> {
  checkSocketPath(path, "Choose a shorter path.");
  await makeWayForSocket(path);
  // Bound under another name first: between binding and listening a connection would be refused.
  const beside = join(dirname(path), `.${crypto.randomUUID().slice(0, 8)}`);
  const bound = isSocketPathTooLong(beside) ? path : beside;
  const umask = process.umask(0o177);
  let listener: Bound | undefined;
  try {
    listener = await bind(bound);
    if (bound !== path) give(bound, path);
  } catch (error) {
    listener?.stop(true);
    removeFile(bound);
    if (error instanceof MeshError) throw error;
    if (systemCodeOf(error) === "EEXIST") throw inUse(path, `somebody listens on ${path} already`);
    throw new MeshError("storage_failed", `cannot listen on ${path}: ${messageOf(error)}`, {
      hint: "Check that its directory is there and yours; some sandboxes and network file systems forbid Unix sockets.",
      cause: error,
    });
  } finally {
    process.umask(umask);
  }
  const own = identityAt(path);
  return {
    close() {
      listener.stop(false);
      // Somebody may have removed it, and somebody else may listen there now.
      if (identityAt(path) === own) removeFile(path);
    },
  };
}

/** Tells a file from a later one of the same name. Undefined when there is none. */
function identityAt(path: string): string | undefined {
  const status = lstatSync(path, { bigint: true, throwIfNoEntry: false });
  return status === undefined ? undefined : `${status.ino} ${status.mtimeNs}`;
}

/** Throws `EEXIST` when somebody was quicker. */
function give(bound: string, path: string): void {
  try {
    linkSync(bound, path);
    removeFile(bound);
  } catch (error) {
    if (systemCodeOf(error) === "EEXIST") throw error;
    // A file system without hard links, or one that makes none of sockets.
    renameSync(bound, path);
  }
}

/** Only a refusal proves that nobody listens at a socket; then it is left over, and goes. */
async function makeWayForSocket(path: string): Promise<void> {
  let isSocket: boolean;
  try {
    isSocket = lstatSync(path).isSocket();
  } catch (error) {
    if (systemCodeOf(error) === "ENOENT") return;
    throw storageError(`cannot look at ${path}`, error);
  }
  if (!isSocket) {
    throw new MeshError("path_unsafe", `${path} is there already and is not a socket`, {
      hint: "Choose another path, or remove what is there if it is not needed.",
    });
  }
  const tried = identityAt(path);
  const refusal = await tryToConnect(path);
  if (refusal === "ENOENT") return;
  if (refusal === "ECONNREFUSED") {
    // Unless somebody else has made way meanwhile, and listens: then the place is not free.
    if (identityAt(path) === tried) removeFile(path);
    return;
  }
  throw inUse(
    path,
    refusal === undefined
      ? `somebody listens on ${path} already`
      : `${path} cannot be tried (${refusal}), so that somebody may be listening there`,
  );
}

const inUse = (path: string, message: string): MeshError =>
  new MeshError("already_running", message, {
    hint: `Choose another path, or end whoever has it: lsof '${path}'.`,
    details: { socket: path },
  });

/** The error code, or undefined when somebody is there. */
async function tryToConnect(path: string): Promise<string | undefined> {
  try {
    const socket = await Bun.connect({ unix: path, socket: { data: () => undefined } });
    socket.end();
    return undefined;
  } catch {
    return await refusalOf(path);
  }
}

/** `Bun.connect` calls other failures refusals, too. `fetch` tells them apart, but would say something to whoever is there. */
async function refusalOf(path: string): Promise<string | undefined> {
  try {
    const signal = AbortSignal.timeout(staleSocketMsMax);
    await (await fetch("http://localhost/", { unix: path, signal, redirect: "error" })).body?.cancel();
    return undefined;
  } catch (error) {
    return systemCodeOf(error) ?? messageOf(error);
  }
}
