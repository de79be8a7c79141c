/**
 * Which process a daemon's directory belongs to, also when nobody answers there. The lock alone proves that a daemon lives;
 * the record beside it (daemon.json) says which process that is, and counts only for a process that began when the record
 * says: process ids are used again. On a clean end the record is where the daemon leaves its last word.
 */
import { spawnSync } from "node:child_process";
import { closeSync, ftruncateSync, openSync, readFileSync, writeSync } from "node:fs";
import * as v from "valibot";
import { fileExists, readTextFile, removeFile, writeFileAtomic } from "~/disk/file";
import { isLocked, lockHolder } from "~/disk/lock";
import { MeshError, systemCodeOf } from "~/errors";
import type { DaemonPaths } from "~/wire/paths";

const DaemonRecord = v.object({
  pid: v.pipe(v.number(), v.integer(), v.minValue(1)),
  started_at: v.string(),
  /** The flags of `daemon up`. */
  started_with: v.array(v.string()),
  /** Tells this process from a later one with the same id. */
  process_start: v.nullable(v.string()),
  /** Set at a clean end. */
  last_word: v.exactOptional(
    v.object({
      /** How many messages were accepted here and not by a broker. */
      unsent: v.pipe(v.number(), v.integer(), v.minValue(0)),
      /** The meshes that an ephemeral daemon could not leave: their brokers go on counting it as a member. */
      not_left: v.array(v.string()),
    }),
  ),
});
export type LastWord = NonNullable<DaemonRecord["last_word"]>;
type DaemonRecord = v.InferOutput<typeof DaemonRecord>;

/** Who holds the lock of a daemon's directory. */
export type Holder =
  | { kind: "none" }
  | { kind: "process"; pid: number; startedAt: string; startedWith: readonly string[] }
  /** Somebody else: another command of ours at its work (`isOurs`), a daemon that has just begun (too), or a program that we do not know. */
  | { kind: "other"; pid: number; program: string; isOurs: boolean }
  /** A daemon lives, but its process cannot be told from here. */
  | { kind: "hidden"; why: string };

/** Who holds the lock of this directory. Not for the holder itself. Throws `storage_*` when the lock cannot be looked at. */
export function findHolder(paths: DaemonPaths): Holder {
  if (!fileExists(paths.lock) || !isLocked(paths.lock)) return { kind: "none" };
  const record = readRecord(paths);
  const isHere = record?.process_start != null && processStart(record.pid) === record.process_start;
  if (record !== undefined && isHere) {
    const { pid, started_at, started_with } = record;
    return { kind: "process", pid, startedAt: started_at, startedWith: started_with };
  }
  const other = lockHolder(paths.lock);
  if (other !== undefined) return { kind: "other", ...other };
  const why =
    record === undefined
      ? `${paths.record} does not name it`
      : `process ${record.pid}, which ${paths.record} names, is not it here (another container, or a record left over)`;
  return { kind: "hidden", why };
}

/** What to tell whoever cannot have the lock because of a process that is no daemon. */
export const heldByOther = (
  code: "storage_failed" | "daemon_unreachable",
  paths: DaemonPaths,
  { pid, program, isOurs }: Holder & { kind: "other" },
): MeshError =>
  new MeshError(
    code,
    `process ${pid} (${program}) holds ${paths.lock} and is no daemon that answers; as long as it does, none can start`,
    {
      hint: isOurs
        ? `It may be a command that is at work there, or a daemon that hangs: ps -fp ${pid} shows which. Wait for its end, or end it (kill ${pid}), and try again.`
        : `See what it is (ps -fp ${pid}), end it, and try again.`,
      details: { pid, lock: paths.lock },
    },
  );

/**
 * Whether the process that is `pid` here is the one that the record names: a daemon in another container has an id that may be
 * anybody's here. Undefined when the record does not say.
 */
export function isRecorded(paths: DaemonPaths, pid: number): boolean | undefined {
  const record = readRecord(paths);
  if (record === undefined || record.process_start === null) return undefined;
  return record.pid === pid && processStart(pid) === record.process_start;
}

/** Names this process in the record. To be called by the holder of the lock. */
export function writeRecord(paths: DaemonPaths, startedAt: string, startedWith: readonly string[]): void {
  const record: DaemonRecord = {
    pid: process.pid,
    started_at: startedAt,
    started_with: [...startedWith],
    process_start: processStart(process.pid) ?? null,
  };
  writeFileAtomic(paths.record, jsonLine(record));
}

/** Leaves the last word in the very file that others may have open, and removes it. */
export function endRecord(paths: DaemonPaths, lastWord: LastWord): void {
  const record = readRecord(paths);
  if (record !== undefined && record.pid === process.pid) {
    const fd = openSync(paths.record, "r+");
    try {
      ftruncateSync(fd, 0);
      writeSync(fd, jsonLine({ ...record, last_word: lastWord }), 0);
    } finally {
      closeSync(fd);
    }
  }
  removeFile(paths.record);
}

export interface Listening {
  /** Undefined as long as the daemon has not ended cleanly. To be asked once. */
  lastWord(): LastWord | undefined;
  close(): void;
}

/** Holds the record open, so that its last content can be read when the file, or the whole directory, is gone. */
export function listenForLastWord(paths: DaemonPaths): Listening {
  let fd: number;
  try {
    fd = openSync(paths.record, "r");
  } catch (error) {
    // Without it there is nothing to be learnt; ending the daemon does not depend on it.
    if (systemCodeOf(error) === undefined) throw error;
    return { lastWord: () => undefined, close: () => undefined };
  }
  return {
    lastWord: () => parseRecord(readFileSync(fd, "utf8"))?.last_word,
    close: () => closeSync(fd),
  };
}

function readRecord(paths: DaemonPaths): DaemonRecord | undefined {
  return parseRecord(readTextFile(paths.record) ?? "");
}

function parseRecord(text: string): DaemonRecord | undefined {
  const parsed = v.safeParse(v.pipe(v.string(), v.parseJson(), DaemonRecord), text);
  return parsed.success ? parsed.output : undefined;
}

const jsonLine = (record: DaemonRecord): string => `${JSON.stringify(record)}\n`;

/**
 * When the process began, in words that no later process with the same id has: on Linux the boot and the clock tick
 * (proc_pid_stat(5)), elsewhere what ps(1) says. Undefined when there is no such process to be seen.
 */
export function processStart(pid: number): string | undefined {
  if (process.platform === "linux") {
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
      // The name in parentheses may hold anything; the state, field 3, follows the last one.
      const startTicks = stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19];
      const boot = readFileSync("/proc/sys/kernel/random/boot_id", "latin1").trim();
      return startTicks === undefined ? undefined : `${boot}/${startTicks}`;
    } catch (error) {
      if (systemCodeOf(error) === undefined) throw error;
      return undefined; // It has ended, or /proc is hidden from us.
    }
  }
  const { status, stdout } = spawnSync("ps", ["-o", "lstart=", "-p", String(pid)], {
    encoding: "utf8",
    env: { PATH: "/bin:/usr/bin", LC_ALL: "C", TZ: "UTC" },
  });
  const text = status === 0 ? stdout.trim() : "";
  return text === "" ? undefined : text;
}
