/** The C library, for the few system calls that Bun has no function for. */
import { dlopen, type FFIFunction, type Library } from "bun:ffi";
import { messageOf } from "~/errors";

/** Its file: on Linux that of glibc, then that of musl. */
const files =
  process.platform === "darwin"
    ? ["libSystem.B.dylib"]
    : ["libc.so.6", `libc.musl-${process.arch === "arm64" ? "aarch64" : "x86_64"}.so.1`];

/** A text in place of the functions says why they cannot be had. */
export function openLibc<Functions extends Record<string, FFIFunction>>(
  functions: Functions,
): Library<Functions>["symbols"] | { unavailable: string } {
  const failures: string[] = [];
  for (const file of files) {
    try {
      return dlopen(file, functions).symbols;
    } catch (error) {
      failures.push(messageOf(error));
    }
  }
  return { unavailable: failures.join("; ") };
}
