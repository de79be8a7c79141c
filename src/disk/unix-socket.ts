/**
 * A Unix socket for its owner alone, for whoever is told where to listen. Its file appears only when connecting to it works, and
 * what may still be in use is never removed.
 */
import { chmodSync, linkSync, lstatSync, renameSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileExists, removeFile, storageError } from "~/disk/file";
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
 * be done in it. Of several that want the same place at the same moment, one has it. Throws `already_running` when somebody listens
 * there, `path_unsafe`, `socket_path_too_long`, `storage_*`.
 */
export async function giveSocket(
  path: string,
  bind: (path: string) => Bound | Promise<Bound>,
): Promise<SocketListener> {
  checkSocketPath(path, "Choose a shorter path.");
  await makeWayForSocket(path);
  // Bound under another name first: between binding and listening a connection would be refused.
  const bound = nameBeside(path);
  let listener: Bound | undefined;
  try {
    listener = await withoutOthers(() => bind(bound));
    chmodSync(bound, 0o600);
    give(bound, path);
  } catch (error) {
    if (listener !== undefined) {
      listener.stop(true);
      removeFile(bound);
    }
    throw failure(path, error);
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

/** The umask is the whole process's: it is back before anything else has its turn, even where binding takes longer. */
function withoutOthers<T>(bind: () => T): T {
  const umask = process.umask(0o177);
  try {
    return bind();
  } finally {
    process.umask(umask);
  }
}

/** Tells a file from a later one of the same name. Undefined when there is none. */
function identityAt(path: string): string | undefined {
  const status = lstatSync(path, { bigint: true, throwIfNoEntry: false });
  return status === undefined ? undefined : `${status.ino} ${status.mtimeNs}`;
}

/** A free name in the same directory, which is no longer than the system allows either: of a single letter if need be. */
function nameBeside(path: string): string {
  const directory = dirname(path);
  for (let tries = 0; tries < namesTriedMax; tries++) {
    const random = crypto.randomUUID();
    const beside = [`.${random.slice(0, 8)}`, random.slice(0, 4), random.slice(0, 1)]
      .map((name) => join(directory, name))
      .find((name) => !isSocketPathTooLong(name));
    if (beside !== undefined && beside !== path && identityAt(beside) === undefined) return beside;
  }
  throw new MeshError("storage_failed", `cannot listen on ${path}: its directory has no free short name`, {
    hint: "Choose a shorter path.",
  });
}

const namesTriedMax = 100;

/** Throws `EEXIST` when somebody was quicker. */
function give(bound: string, path: string): void {
  try {
    linkSync(bound, path);
  } catch (error) {
    // A file system without hard links, or one that makes none of sockets.
    if (systemCodeOf(error) === "EEXIST" || identityAt(path) !== undefined) throw error;
    renameSync(bound, path);
    return;
  }
  removeFile(bound);
}

function failure(path: string, error: unknown): MeshError {
  if (error instanceof MeshError) return error;
  const code = systemCodeOf(error) ?? "";
  if (["EEXIST", "EADDRINUSE"].includes(code)) return inUse(path, `somebody listens on ${path} already`);
  const what = `cannot listen on ${path}`;
  const directory = dirname(path);
  if (code === "ENOENT" && !fileExists(directory)) {
    return new MeshError("storage_failed", `${what}: there is no directory ${directory}`, {
      hint: `Make it first: mkdir -p '${directory}'`,
      cause: error,
    });
  }
  const { code: kind, message, hint } = storageError(what, error);
  return new MeshError(kind, message, {
    hint: hint ?? "Some sandboxes and network file systems forbid Unix sockets. Choose another path.",
    cause: error,
  });
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
    removeIfStill(path, tried);
    return;
  }
  throw inUse(
    path,
    refusal === undefined
      ? `somebody listens on ${path} already`
      : `${path} cannot be tried (${refusal}), so that somebody may be listening there`,
  );
}

/** Removes what was tried, and not what somebody else has put there meanwhile: that one listens, and the place is not free. */
function removeIfStill(path: string, tried: string | undefined): void {
  if (identityAt(path) !== tried) return;
  // No system call removes a file on condition: moved away, it can be looked at before it goes.
  const aside = nameBeside(path);
  try {
    renameSync(path, aside);
  } catch (error) {
    if (systemCodeOf(error) === "ENOENT") return;
    throw storageError(`cannot remove ${path}`, error);
  }
  if (identityAt(aside) === tried) removeFile(aside);
  else give(aside, path);
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
