/**
 * Stopping what a pseudo-terminal puts out, and letting it go on (tcflow(3)): whoever writes to it waits meanwhile, and nothing is lost.
 * Bun reads a terminal for as long as there is something to read, and can neither pause nor be asked for the descriptor; the C library
 * does both. Without it a terminal can still be followed, but then it holds up everything else while it pours.
 */
import { dlopen } from "bun:ffi";
import { closeSync, constants, openSync, readdirSync } from "node:fs";
import { messageOf, systemCodeOf } from "~/errors";

export interface TerminalFlow {
  stop(): void;
  resume(): void;
  /** Resumes for good. Until then the terminal does not end when the last of its programs does. */
  close(): void;
}

const libraries =
  process.platform === "darwin"
    ? ["libSystem.B.dylib"]
    : ["libc.so.6", `libc.musl-${process.arch === "arm64" ? "aarch64" : "x86_64"}.so.1`];

/** TCOOFF and TCOON of termios.h: 0 and 1 on Linux, 1 and 2 on macOS. */
const [off, on] = process.platform === "darwin" ? [1, 2] : [0, 1];

/**
 * `open` opens one terminal, and its flow is found among the descriptors that are new then. A text in place of the flow says why it
 * cannot be had. Throws what `open` throws.
 */
export function openWithFlow<T>(open: () => T): { opened: T; flow: TerminalFlow | { unavailable: string } } {
  const library = openLibrary();
  const before = new Set(descriptors());
  const opened = open();
  if (typeof library === "string") return { opened, flow: { unavailable: library } };
  const paths = descriptors()
    .filter((descriptor) => !before.has(descriptor))
    .flatMap((descriptor) => library.ptsname(descriptor)?.toString() ?? []);
  const path = paths.find((name) => name.startsWith("/dev/"));
  if (path === undefined) return { opened, flow: { unavailable: "its device has no name here" } };
  try {
    return { opened, flow: flowOf(path, library.tcflow) };
  } catch (error) {
    return { opened, flow: { unavailable: `${path}: ${systemCodeOf(error) ?? messageOf(error)}` } };
  }
}

function flowOf(path: string, tcflow: (fd: number, action: number) => number): TerminalFlow {
  const fd = openSync(path, constants.O_RDWR | constants.O_NOCTTY | constants.O_NONBLOCK);
  let isOpen = true;
  return {
    stop: () => void (isOpen && tcflow(fd, off)),
    resume: () => void (isOpen && tcflow(fd, on)),
    close() {
      if (!isOpen) return;
      tcflow(fd, on);
      isOpen = false;
      closeSync(fd);
    },
  };
}

/** Of this process; one that was only used to list them is among them. */
const descriptors = (): number[] => readdirSync("/dev/fd").map(Number);

function openLibrary() {
  const failures: string[] = [];
  for (const library of libraries) {
    try {
      return dlopen(library, {
        tcflow: { args: ["i32", "i32"], returns: "i32" },
        ptsname: { args: ["i32"], returns: "cstring" },
      }).symbols;
    } catch (error) {
      failures.push(messageOf(error));
    }
  }
  return failures.join("; ");
}
