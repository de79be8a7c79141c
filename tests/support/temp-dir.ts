import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { cleanup } from "./cleanup";

/**
 * A new empty directory (mode 0700) that is removed after the test. Its path is short: a Unix socket's path has room for about
 * 104 bytes, and tests put sockets a few levels down.
 */
export function tempDir(): string {
  const path = mkdtempSync(join(tmpdir(), "cm-"));
  cleanup(() => rmSync(path, { recursive: true, force: true }));
  return path;
}
