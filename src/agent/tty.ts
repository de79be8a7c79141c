/**
 * The line settings of a person's terminal: raw while an agent is shown in it, and exactly as before afterwards. Bun's own raw mode
 * goes on turning newlines into returns, which moves the cursor of programs that do not expect it; so this asks the C library.
 */
import { dlopen, type Pointer, ptr } from "bun:ffi";
import { MeshError, messageOf } from "~/errors";

export interface Tty {
  /** Every byte as it is, both ways: Ctrl-C is a byte, too. */
  makeRaw(): void;
  /** As it was when it was opened. Does nothing when it is so already; never throws, for the terminal may be gone. */
  restore(): void;
}

/** Larger than any `struct termios` (60 bytes on Linux, 72 on macOS). */
const termiosBytes = 256;
/** TCSANOW of termios.h, the same on Linux and macOS. To wait until what was written is shown could take for ever. */
const atOnce = 0;

const libraries =
  process.platform === "darwin"
    ? ["libSystem.B.dylib"]
    : ["libc.so.6", `libc.musl-${process.arch === "arm64" ? "aarch64" : "x86_64"}.so.1`];

const signatures = {
  tcgetattr: { args: ["i32", "ptr"], returns: "i32" },
  tcsetattr: { args: ["i32", "i32", "ptr"], returns: "i32" },
  cfmakeraw: { args: ["ptr"], returns: "void" },
} as const;

/** Throws `not_a_terminal`. */
export function openTty(fd: number): Tty {
  const { tcgetattr, tcsetattr, cfmakeraw } = openLibrary();
  const before = new Uint8Array(termiosBytes);
  if (tcgetattr(fd, addressOf(before)) !== 0) {
    throw new MeshError("not_a_terminal", "this is not a terminal", {
      hint: "Run it in a terminal window.",
    });
  }
  const raw = before.slice();
  cfmakeraw(addressOf(raw));
  let isRaw = false;
  return {
    makeRaw() {
      isRaw = true;
      tcsetattr(fd, atOnce, addressOf(raw));
    },
    restore() {
      if (!isRaw) return;
      isRaw = false;
      tcsetattr(fd, atOnce, addressOf(before));
    },
  };
}

const addressOf = (bytes: Uint8Array): Pointer => ptr(bytes);

function openLibrary() {
  const failures: string[] = [];
  for (const library of libraries) {
    try {
      return dlopen(library, signatures).symbols;
    } catch (error) {
      failures.push(messageOf(error));
    }
  }
  throw new MeshError("internal", `cannot set up the terminal: ${failures.join("; ")}`, {
    hint: "Start the agent without a terminal (agent run --detached), and use agent send and agent capture.",
  });
}
