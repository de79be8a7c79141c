/** Who may read and write what belongs to this host: directories, keys, the token, databases, the socket. */
import { lstat, stat } from "node:fs/promises";
import { type Finding, fail, pass, warn } from "~/cli/doctor/finding";
import { systemCodeOf } from "~/errors";
import { quoteForShell } from "~/service/cron";
import { daemonPaths, type HostPaths } from "~/wire/paths";

interface Rule {
  kind: "file" | "directory" | "socket";
  /** Bits of the mode that let others do what they must not. */
  forbidden: number;
  /** A symbolic link is followed, as a tree of dotfiles may have it. */
  mayBeLink: boolean;
  /** Something does not work, or somebody else could do harm; otherwise the directory around it still protects it. */
  isSevere: boolean;
}

const privateFile: Rule = { kind: "file", forbidden: 0o077, mayBeLink: false, isSevere: false };

const rules = {
  config_dir: { kind: "directory", forbidden: 0o022, mayBeLink: true, isSevere: true },
  config_file: { kind: "file", forbidden: 0o077, mayBeLink: true, isSevere: true },
  settings_file: { kind: "file", forbidden: 0o022, mayBeLink: true, isSevere: true },
  daemon_dir: { kind: "directory", forbidden: 0o077, mayBeLink: false, isSevere: true },
  lock: privateFile,
  socket: { kind: "socket", forbidden: 0o077, mayBeLink: false, isSevere: true },
  token: { ...privateFile, isSevere: true },
  outbox: privateFile,
  inbox: privateFile,
  directory: privateFile,
  host_record: privateFile,
  log: privateFile,
} as const satisfies Record<string, Rule>;

export type FileRole = keyof typeof rules;

export interface FileFact {
  role: FileRole;
  path: string;
  kind: "missing" | "file" | "directory" | "socket" | "link" | "other" | "unreadable";
  uid: number;
  mode: number;
  bytes: number;
  mtimeMs: number;
  /** Why it cannot be looked at. */
  error?: string;
}

export async function gatherFiles(host: HostPaths): Promise<FileFact[]> {
  const paths = daemonPaths(host.daemonDir);
  const places: Record<FileRole, string> = {
    config_dir: host.configDir,
    config_file: host.configFile,
    settings_file: host.settingsFile,
    daemon_dir: paths.dir,
    lock: paths.lock,
    socket: paths.socket,
    token: paths.token,
    outbox: paths.outbox,
    inbox: paths.inbox,
    directory: paths.directory,
    host_record: paths.hostRecord,
    log: paths.log,
  };
  const roles = Object.keys(rules) as FileRole[];
  return await Promise.all(roles.map((role) => lookAt(role, places[role])));
}

async function lookAt(role: FileRole, path: string): Promise<FileFact> {
  const nothing = { role, path, uid: -1, mode: 0, bytes: 0, mtimeMs: 0 };
  try {
    const rule: Rule = rules[role];
    const own = await lstat(path);
    const status = own.isSymbolicLink() && rule.mayBeLink ? await stat(path) : own;
    const kind = status.isFile()
      ? "file"
      : status.isDirectory()
        ? "directory"
        : status.isSocket()
          ? "socket"
          : status.isSymbolicLink()
            ? "link"
            : "other";
    const { uid, mode, size, mtimeMs } = status;
    return { role, path, kind, uid, mode: mode & 0o777, bytes: size, mtimeMs };
  } catch (error) {
    const code = systemCodeOf(error);
    if (code === undefined) throw error;
    // ENOTDIR: something on the way there is a file, which is a fact about that, and told there.
    const isMissing = code === "ENOENT" || code === "ENOTDIR";
    return { ...nothing, kind: isMissing ? "missing" : "unreadable", ...(isMissing ? {} : { error: code }) };
  }
}

/** `uid`: who we are; undefined where there are no such ids. */
export function judgeFiles(facts: readonly FileFact[], uid: number | undefined): Finding[] {
  const present = facts.filter(({ kind }) => kind !== "missing");
  const closed = present.filter((fact) => isDirectoryRole(fact) && judgeFile(fact, uid) !== undefined);
  // Why a file cannot be looked at is told by the directory that it is in.
  const isTold = ({ kind, path }: FileFact): boolean =>
    kind === "unreadable" && closed.some((directory) => path.startsWith(`${directory.path}/`));
  const findings = present.flatMap((fact) => (isTold(fact) ? [] : (judgeFile(fact, uid) ?? [])));
  if (findings.length > 0) return findings;
  if (present.length === 0) return [pass("permissions", "there are no files of claudemesh here yet")];
  return [
    pass(
      "permissions",
      present.length === 1
        ? "1 file or directory: nobody else gets at it"
        : `${present.length} files and directories: nobody else gets at them`,
    ),
  ];
}

const isDirectoryRole = ({ role }: FileFact): boolean => rules[role].kind === "directory";

function judgeFile(fact: FileFact, uid: number | undefined): Finding | undefined {
  const { role, path, kind, mode } = fact;
  const rule: Rule = rules[role];
  const say = rule.isSevere ? fail : warn;
  const quoted = quoteForShell(path);
  if (kind === "unreadable") {
    return fail(
      "permissions",
      `${path} cannot be looked at (${fact.error ?? "no reason given"})`,
      `ls -ld ${quoted}`,
    );
  }
  if (kind === "link") {
    return say("permissions", `${path} is a symbolic link, which is not followed here`, `rm ${quoted}`);
  }
  if (kind !== rule.kind) {
    return fail(
      "permissions",
      `${path} is ${kind === "other" ? "something else" : `a ${kind}`} where a ${rule.kind} belongs`,
      `mv ${quoted} ${quoteForShell(`${path}.aside`)}`,
    );
  }
  if (uid !== undefined && fact.uid !== uid) {
    return say(
      "permissions",
      `${path} belongs to user id ${fact.uid}, not to you (${uid})`,
      `sudo chown ${rule.kind === "directory" ? "-R " : ""}${uid} ${quoted}`,
    );
  }
  if ((mode & rule.forbidden) !== 0) {
    const wanted = rule.kind === "directory" ? "700" : "600";
    return say(
      "permissions",
      `${path} is open to other users (mode ${mode.toString(8).padStart(3, "0")})`,
      `chmod ${wanted} ${quoted}`,
    );
  }
  // Root is not kept out by that.
  const needed = rule.kind === "directory" ? 0o700 : 0o400;
  if (uid !== 0 && (mode & needed) !== needed) {
    return fail(
      "permissions",
      `${path} is closed to you yourself (mode ${mode.toString(8).padStart(3, "0")})`,
      `chmod ${rule.kind === "directory" ? "700" : "u+rw"} ${quoted}`,
    );
  }
  return undefined;
}
