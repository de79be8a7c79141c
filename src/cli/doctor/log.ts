/** The daemon's log: whether it can be written, how much of it is kept, and how much is told. */
import { access, constants, readdir, stat } from "node:fs/promises";
import { basename, dirname } from "node:path";
import { bytesText } from "~/cli/doctor/disk";
import { type Finding, fail, pass, warn } from "~/cli/doctor/finding";
import { counted } from "~/cli/text";
import { systemCodeOf } from "~/errors";
import { quoteForShell } from "~/service/cron";
import type { Settings } from "~/settings/knobs";
import { oldLog, oldLogNumbers } from "~/wire/paths";

export interface LogFacts {
  path: string;
  /** Of the log and its old files. */
  bytes: number;
  files: number;
  /** Why it cannot be written. */
  unwritable: string | undefined;
}

/** Undefined when there is none. */
export async function gatherLog(path: string): Promise<LogFacts | undefined> {
  try {
    const numbers = oldLogNumbers(basename(path), await readdir(dirname(path)));
    const sizes = await Promise.all([path, ...numbers.map((number) => oldLog(path, number))].map(sizeOf));
    const present = sizes.filter((size) => size !== undefined);
    if (present.length === 0) return undefined;
    return {
      path,
      bytes: present.reduce((sum, size) => sum + size, 0),
      files: present.length,
      unwritable: await whyUnwritable(path),
    };
  } catch (error) {
    if (systemCodeOf(error) === undefined) throw error;
    return undefined; // What hides the directory is told by the check of permissions.
  }
}

async function sizeOf(path: string): Promise<number | undefined> {
  try {
    return (await stat(path)).size;
  } catch (error) {
    if (systemCodeOf(error) === "ENOENT") return undefined;
    throw error;
  }
}

async function whyUnwritable(path: string): Promise<string | undefined> {
  try {
    await access(path, constants.W_OK);
    return undefined;
  } catch (error) {
    const code = systemCodeOf(error);
    return code === "ENOENT" ? undefined : (code ?? "unknown");
  }
}

export function judgeLog(facts: LogFacts | undefined, settings: Settings | undefined): Finding[] {
  if (facts === undefined) return [];
  const { path, bytes, files, unwritable } = facts;
  // That the whole disk is read-only is told by its own check.
  if (unwritable === "EROFS") return [];
  if (unwritable !== undefined) {
    return [fail("log", `${path} cannot be written (${unwritable})`, `chmod u+rw ${quoteForShell(path)}`)];
  }
  const size = `${bytesText(bytes)} in ${counted(files, "file")}`;
  if (settings === undefined) return [pass("log", size)];
  const level = settings["log.level"];
  // A file may grow a little beyond its bound before the next one begins.
  const bytesMax = settings["log.file_bytes_max"] * (settings["log.files_kept"] + 2);
  if (bytes > bytesMax) {
    return [
      warn("log", `${size}, more than the settings allow: it is not rotated`, "claudemesh daemon restart"),
    ];
  }
  if (level === "debug") {
    return [
      warn("log", `${size}; everything is logged (log.level is debug)`, "claudemesh config unset log.level"),
    ];
  }
  return [pass("log", `${size}, from level ${level} on`)];
}
