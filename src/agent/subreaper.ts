/**
 * On Linux, a process can have all orphans among its descendants become its own children (prctl(2), PR_SET_CHILD_SUBREAPER), so that
 * none gets out of sight. It must then also collect what they leave when they end. Bun has no call for either; libc has.
 */
import { openLibc } from "~/agent/libc";

export interface Subreaper {
  /** Collects a child that has ended and that nobody else waits for. Harmless when it goes on. */
  collect(pid: number): void;
}

const setChildSubreaper = 36;
const noHang = 1;

/** From now on until this process ends. A text says why it cannot be had. */
export function becomeSubreaper(): Subreaper | { unavailable: string } {
  if (process.platform !== "linux") return { unavailable: `${process.platform} has nothing of the kind` };
  const libc = openLibc({
    prctl: { args: ["i32", "u64", "u64", "u64", "u64"], returns: "i32" },
    waitpid: { args: ["i32", "ptr", "i32"], returns: "i32" },
  });
  if ("unavailable" in libc) return libc;
  if (libc.prctl(setChildSubreaper, 1n, 0n, 0n, 0n) !== 0) return { unavailable: "the kernel refuses it" };
  return { collect: (pid) => void libc.waitpid(pid, null, noHang) };
}
