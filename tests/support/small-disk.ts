/** A disk without space, for real: a small tmpfs, which takes root and a machine that lets root mount. */
import { closeSync, cpSync, mkdtempSync, openSync, rmSync, unlinkSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemCodeOf } from "~/errors";
import { cleanup } from "./cleanup";
import { tempDir } from "./temp-dir";

const mount = (directory: string): boolean =>
  Bun.spawnSync(["mount", "-t", "tmpfs", "-o", "size=6m,mode=0700", "tmpfs", directory]).success;
const unmount = (directory: string): boolean => Bun.spawnSync(["umount", "-l", directory]).success;

/** Mounting takes root, and a machine that lets root mount. */
export const canMount = ((): boolean => {
  if (process.platform !== "linux" || process.getuid?.() !== 0) return false;
  const directory = mkdtempSync(join(tmpdir(), "cmt-"));
  const mounted = mount(directory);
  if (mounted) unmount(directory);
  rmSync(directory, { recursive: true });
  return mounted;
})();

/** Moves a directory onto a disk of 6 MiB of its own. */
export function shrink(directory: string): void {
  const copy = join(tempDir(), "copy");
  cpSync(directory, copy, { recursive: true });
  if (!mount(directory)) throw new Error(`cannot mount on ${directory}`);
  cleanup(() => void unmount(directory));
  cpSync(copy, directory, { recursive: true });
}

/** Fills the disk to the last byte; returns what makes room again. */
export function fill(directory: string): () => void {
  const path = join(directory, "filler");
  const fd = openSync(path, "w");
  for (let chunk = 64 * 1024; chunk >= 1; ) {
    try {
      if (writeSync(fd, Buffer.alloc(chunk)) < chunk) chunk >>= 1;
    } catch (error) {
      if (systemCodeOf(error) !== "ENOSPC") throw error;
      chunk >>= 1;
    }
  }
  closeSync(fd);
  return () => unlinkSync(path);
}
