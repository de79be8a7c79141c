/** Room for what is accepted: free space, free inodes, and whether the directories can be written. */
import { constants } from "node:fs";
import { access, statfs } from "node:fs/promises";
import { dirname } from "node:path";
import { type Finding, fail, pass, warn } from "~/cli/doctor/finding";
import { systemCodeOf } from "~/errors";
import { quoteForShell } from "~/service/cron";
import { freeBytesLow, freeBytesMin, freeInodesMin } from "~/wire/limits";

export interface DiskFacts {
  /** The nearest directory that exists. */
  path: string;
  freeBytes: number;
  /** Undefined on file systems that do not count them. */
  freeInodes: number | undefined;
  /** Why it cannot be written. */
  unwritable: string | undefined;
}

/** Undefined when the file system says nothing of itself. */
export async function gatherDisk(directory: string): Promise<DiskFacts | undefined> {
  for (let path = directory; ; path = dirname(path)) {
    try {
      // The dot: what is no directory is not what will be written to.
      const { bavail, bsize, ffree, files } = await statfs(`${path}/.`);
      const unwritable = await whyUnwritable(path);
      return { path, freeBytes: bavail * bsize, freeInodes: files > 0 ? ffree : undefined, unwritable };
    } catch (error) {
      const code = systemCodeOf(error);
      if (code === undefined) throw error;
      if ((code !== "ENOENT" && code !== "ENOTDIR") || path === dirname(path)) return undefined;
    }
  }
}

async function whyUnwritable(path: string): Promise<string | undefined> {
  try {
    await access(path, constants.W_OK | constants.X_OK);
    return undefined;
  } catch (error) {
    return systemCodeOf(error) ?? "unknown";
  }
}

export function judgeDisk(facts: DiskFacts | undefined): Finding[] {
  if (facts === undefined) return [warn("disk", "how much space is left cannot be found out", "df -h")];
  const { path, freeBytes, freeInodes, unwritable } = facts;
  const look = `df -h ${quoteForShell(path)}`;
  const left = `${bytesText(freeBytes)} are free at ${path}`;
  return [
    ...(unwritable === undefined
      ? []
      : [
          unwritable === "EROFS"
            ? fail(
                "disk",
                `${path} is mounted read-only`,
                `sudo mount -o remount,rw "$(df --output=target ${quoteForShell(path)} | tail -1)"`,
              )
            : fail("disk", `${path} cannot be written (${unwritable})`, `chmod u+rwx ${quoteForShell(path)}`),
        ]),
    ...(freeInodes !== undefined && freeInodes < freeInodesMin
      ? [
          fail(
            "disk",
            `${freeInodes} more files fit on the disk of ${path}: it has hardly any inodes left`,
            `df -i ${quoteForShell(path)}`,
          ),
        ]
      : []),
    freeBytes < freeBytesMin
      ? fail("disk", `only ${left}: soon messages will be refused`, `Free some space; what there is: ${look}`)
      : freeBytes < freeBytesLow
        ? warn("disk", `only ${left}`, `Free some space; what there is: ${look}`)
        : pass("disk", left),
  ];
}

/** `12 KB`, `3.4 GB`. */
export function bytesText(bytes: number): string {
  const units = ["bytes", "KB", "MB", "GB", "TB"];
  let value = bytes;
  let unit = 0;
  for (; value >= 1000 && unit < units.length - 1; unit++) value /= 1000;
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}
