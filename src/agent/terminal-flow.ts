/**
 * Stopping what a pseudo-terminal puts out, and letting it go on (tcflow(3)): whoever writes to it waits meanwhile, and nothing is lost.
 * Bun reads a terminal for as long as there is something to read, and can neither pause nor be asked for the descriptor; the C library
 * does both, and tells how the terminal is set. Without it a terminal can still be followed, but then it holds up everything else while it pours.
 */
import { closeSync, constants, openSync, readdirSync } from "node:fs";
import { openLibc } from "~/agent/libc";
import { messageOf, systemCodeOf } from "~/errors";

export interface TerminalFlow {
  stop(): void;
  resume(): void;
  /** Whether its programs are given whole lines, edited by the terminal itself: nobody reads single keys at the moment. */
  givesLines(): boolean;
  /** Resumes for good. Until then the terminal does not end when the last of its programs does. */
  close(): void;
}

/** TCOOFF and TCOON of termios.h: 0 and 1 on Linux, 1 and 2 on macOS. */
const [off, on] = process.platform === "darwin" ? [1, 2] : [0, 1];
/** Of struct termios: its size at most, which byte of it holds the flag ICANON, and that flag. */
const [settingsBytes, linesAt, linesFlag] = process.platform === "darwin" ? [128, 25, 1] : [128, 12, 2];

/**
 * `open` opens one terminal, and its flow is found among the descriptors that are new then. A text in place of the flow says why it
 * cannot be had. Throws what `open` throws.
 */
export function openWithFlow<T>(open: () => T): { opened: T; flow: TerminalFlow | { unavailable: string } } {
  const library = openLibc({
    tcflow: { args: ["i32", "i32"], returns: "i32" },
    tcgetattr: { args: ["i32", "ptr"], returns: "i32" },
    ptsname: { args: ["i32"], returns: "cstring" },
  });
  const before = new Set(descriptors());
  const opened = open();
  if ("unavailable" in library) return { opened, flow: library };
  const paths = descriptors()
    .filter((descriptor) => !before.has(descriptor))
    .flatMap((descriptor) => library.ptsname(descriptor)?.toString() ?? []);
  const path = paths.find((name) => name.startsWith("/dev/"));
  if (path === undefined) return { opened, flow: { unavailable: "its device has no name here" } };
  try {
    return { opened, flow: flowOf(path, library) };
  } catch (error) {
    return { opened, flow: { unavailable: `${path}: ${systemCodeOf(error) ?? messageOf(error)}` } };
  }
}

interface Controls {
  tcflow(fd: number, action: number): number;
  tcgetattr(fd: number, settings: Uint8Array): number;
}

function flowOf(path: string, { tcflow, tcgetattr }: Controls): TerminalFlow {
  const fd = openSync(path, constants.O_RDWR | constants.O_NOCTTY | constants.O_NONBLOCK);
  let isOpen = true;
  return {
    stop: () => void (isOpen && tcflow(fd, off)),
    resume: () => void (isOpen && tcflow(fd, on)),
    givesLines() {
      const settings = new Uint8Array(settingsBytes);
      return isOpen && tcgetattr(fd, settings) === 0 && ((settings[linesAt] ?? 0) & linesFlag) !== 0;
    },
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
