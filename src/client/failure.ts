/**
 * What went wrong on the way to the daemon, as a MeshError. Only ENOENT and ECONNREFUSED prove that no daemon serves a
 * socket; after any other failure the request may have been taken, and the error says so (`answer_lost`).
 */
import { lstatSync } from "node:fs";
import { dirname } from "node:path";
import { MeshError, messageOf, systemCodeOf } from "~/errors";

const upHint = "Start it: claudemesh daemon up";

/** For an error that `fetch` or reading its answer threw. */
export function connectionFailure(thrown: unknown, socketPath: string): MeshError {
  if (thrown instanceof MeshError) return thrown;
  const extras = (hint: string) => ({ hint, cause: thrown, details: { socket: socketPath } });
  const code = systemCodeOf(thrown);
  switch (code) {
    case "ENOENT":
    case "ECONNREFUSED":
      return new MeshError("daemon_unreachable", `no daemon answers on ${socketPath}`, extras(upHint));
    case "EACCES":
    case "EPERM":
      return forbidden(code, socketPath, thrown);
    case "ENOTDIR":
      return new MeshError(
        "path_unsafe",
        `${socketPath} cannot be a socket: part of its path is not a directory`,
        extras("Check CLAUDEMESH_DAEMON_DIR and CLAUDEMESH_CONFIG_DIR."),
      );
    case "EAGAIN":
      return new MeshError(
        "daemon_busy",
        `the daemon on ${socketPath} takes no further connections now`,
        extras("Try again in a moment."),
      );
    default:
      return new MeshError(
        "answer_lost",
        `the connection to the daemon broke before it answered (${code ?? messageOf(thrown)}); it may have taken the request`,
        extras("See whether it runs (claudemesh daemon status), then try again with the same id."),
      );
  }
}

/** Whose it is decides what can be done: another user's daemon is no matter of sandboxes. */
function forbidden(code: string, socketPath: string, cause: unknown): MeshError {
  const ownUid = process.getuid?.();
  const owner = ownerOfWay(socketPath) ?? ownerOf(dirname(socketPath));
  if (owner !== undefined && ownUid !== undefined && owner !== ownUid) {
    return anothers(`may not connect to ${socketPath} (${code})`, { socketPath, owner, ownUid, cause });
  }
  const details = { socket: socketPath, ...(owner === undefined ? {} : { owner_uid: owner }) };
  return new MeshError("sandboxed", `this process may not connect to ${socketPath} (${code})`, {
    hint: sandboxHint(socketPath),
    details,
    cause,
  });
}

/**
 * Why a socket must not be used, if it must not: a directory of another user is not where our daemon is, and whoever listens in it
 * would be shown what we send. Root may use everybody's, as in a container that is given the directory of a user outside.
 */
export function anothersSocket(socketPath: string, ownUid = process.getuid?.()): MeshError | undefined {
  if (ownUid === undefined || ownUid === 0) return undefined;
  const owners = [ownerOf(dirname(socketPath)), ownerOf(socketPath)];
  const owner = owners.find((uid) => uid !== undefined && uid !== ownUid);
  if (owner === undefined) return undefined;
  return anothers(`does not connect to ${socketPath}`, { socketPath, owner, ownUid });
}

function anothers(
  what: string,
  {
    socketPath,
    owner,
    ownUid,
    cause,
  }: { socketPath: string; owner: number; ownUid: number; cause?: unknown },
): MeshError {
  return new MeshError(
    "sandboxed",
    `this process ${what}: it belongs to user id ${owner}, and this process is user id ${ownUid}`,
    {
      hint: "Use a daemon of your own (unset CLAUDEMESH_DAEMON_DIR and CLAUDEMESH_CONFIG_DIR, or set them to directories of yours), or run the command as that user.",
      details: { socket: socketPath, owner_uid: owner },
      cause,
    },
  );
}

/** Whether a failure to connect was told to be about another user's daemon: no other way leads to that one either. */
export const isAnotherUsers = ({ details }: MeshError): boolean =>
  typeof details.owner_uid === "number" && details.owner_uid !== process.getuid?.();

/** The user id of the owner; undefined when it cannot be seen from here. */
function ownerOf(path: string): number | undefined {
  try {
    return lstatSync(path).uid;
  } catch {
    return undefined; // Whatever hides it: then the message does without.
  }
}

/** Whose the socket is; where we may not even look at it, whose the directory is that keeps us out. */
function ownerOfWay(path: string): number | undefined {
  try {
    return lstatSync(path).uid;
  } catch (error) {
    return systemCodeOf(error) === "EACCES" ? ownerOfWay(dirname(path)) : undefined;
  }
}

/** The setting that opens this very path, for the sandboxes that agents usually run in. */
const sandboxHint = (socketPath: string): string =>
  process.platform === "darwin"
    ? `A sandbox forbids it. Allow this path there: Claude Code, settings.json: "sandbox": {"network": {"allowUnixSockets": ["${socketPath}"]}}; a Seatbelt profile: (allow network-outbound (literal "${socketPath}")). Or run the command outside of it. CLAUDEMESH_DAEMON_DIR moves the socket to a path that is allowed.`
    : `A sandbox forbids it, or the permissions of ${dirname(socketPath)} do. Allow Unix sockets there: Claude Code, settings.json: "sandbox": {"network": {"allowAllUnixSockets": true}}; systemd: RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6; a seccomp or Landlock profile: socket(AF_UNIX), and ${socketPath} readable and writable. Or run the command outside of it. CLAUDEMESH_DAEMON_DIR moves the socket to a path that is allowed.`;

/** What a daemon that is restarted or overloaded causes: the same may work in a moment. */
export const isPassing = ({ code }: MeshError): boolean =>
  code === "answer_lost" ||
  code === "daemon_busy" ||
  code === "daemon_stopping" ||
  code === "daemon_unreachable" ||
  code === "timed_out" ||
  code === "too_many_streams";
