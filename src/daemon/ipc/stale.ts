/**
 * Makes room for the daemon's socket. A file counts as left over only when connecting to it is refused; one that somebody
 * answers on, one that may not be tried, and what is neither a socket nor a plain file stay where they are.
 */
import { lstatSync } from "node:fs";
import { removeFile, storageError } from "~/disk/file";
import { MeshError, systemCodeOf } from "~/errors";
import { staleSocketMsMax } from "~/wire/limits";

/** Throws `path_unsafe`, `already_running`, `sandboxed`; removes the file only when nobody serves it. */
export async function clearStaleSocket(path: string): Promise<void> {
  let kind: string | undefined;
  try {
    const status = lstatSync(path);
    if (status.isSymbolicLink()) kind = "a symbolic link";
    else if (!status.isSocket() && !status.isFile()) kind = "no socket";
  } catch (error) {
    if (systemCodeOf(error) === "ENOENT") return;
    throw storageError(`cannot look at ${path}`, error);
  }
  if (kind !== undefined) {
    throw new MeshError("path_unsafe", `${path} is ${kind}, where the daemon's socket belongs`, {
      hint: `See what it is, and remove it: rm '${path}'`,
    });
  }
  const refusal = await connect(path);
  if (refusal === "ENOENT") return;
  // What some systems say of a plain file.
  if (refusal === "ECONNREFUSED" || refusal === "ENOTSOCK") {
    removeFile(path);
    return;
  }
  if (refusal === "EACCES" || refusal === "EPERM") {
    throw new MeshError(
      "sandboxed",
      `the daemon may not connect to ${path} (${refusal}), so it cannot tell whether anybody serves it`,
      {
        hint: "Start the daemon outside of the sandbox that forbids Unix sockets, or allow them there. Nothing was removed.",
        details: { socket: path },
      },
    );
  }
  throw new MeshError(
    "already_running",
    `somebody serves ${path} already, without the lock of its directory`,
    {
      hint: `See who: lsof '${path}'. End it, then start the daemon again.`,
      details: { socket: path },
    },
  );
}

/** The error code, or undefined when somebody was there. `Bun.connect` would call every failure a refusal; `fetch` tells them apart. */
async function connect(path: string): Promise<string | undefined> {
  try {
    const signal = AbortSignal.timeout(staleSocketMsMax);
    await (
      await fetch("http://localhost/v1/health", { unix: path, signal, redirect: "error" })
    ).body?.cancel();
    return undefined;
  } catch (error) {
    return systemCodeOf(error);
  }
}
