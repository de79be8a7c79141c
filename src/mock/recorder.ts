/**
 * Writes what passes through a mock into a file (wire/mock-recording.ts), line by line as it happens, so that the file is whole up
 * to the moment at which the mock ends, however it ends.
 */
import { closeSync, openSync, statSync, writeSync } from "node:fs";
import type { Clock } from "~/clock";
import { storageError } from "~/disk/file";
import { MeshError } from "~/errors";
import type { Log } from "~/log";
import { version } from "~/version";
import type { Recorded, RecordingHead } from "~/wire/mock-recording";

type Without<E, K extends PropertyKey> = E extends unknown ? Omit<E, K> : never;
/** What happened; the recorder counts and times it. */
export type Happening = Without<Recorded, "n" | "at_ms">;

export interface Recorder {
  /** False: spare the trouble of telling. */
  isRecording: boolean;
  /** Its number, for what follows from it. */
  record(happening: Happening): number;
  close(): void;
}

/** Records nothing. */
export const noRecorder: Recorder = { isRecording: false, record: () => 0, close: () => undefined };

/**
 * Replaces the file. Throws `storage_*` when it cannot be written, or is a pipe or a device, which may keep us waiting without end; a
 * write that fails later is logged once, and the mock goes on without a recording.
 */
export function openRecorder(
  path: string,
  mock: RecordingHead["recording"],
  clock: Clock,
  log: Log,
): Recorder {
  let file: number | undefined;
  const write = (line: object): void => {
    if (file === undefined) return;
    const bytes = Buffer.from(`${JSON.stringify(line)}\n`);
    try {
      for (let written = 0; written < bytes.length; ) written += writeSync(file, bytes, written);
    } catch (error) {
      closeSync(file);
      file = undefined;
      log("error", "recording_failed", { error: storageError(`cannot write to ${path}`, error).message });
    }
  };
  try {
    file = openEmpty(path);
  } catch (error) {
    throw storageError(`cannot record to ${path}`, error);
  }
  write({ recording: mock, version } satisfies RecordingHead);
  const beganMs = clock.monotonicMs();
  let count = 0;
  return {
    isRecording: true,
    record(happening) {
      count++;
      write({ n: count, at_ms: Math.round((clock.monotonicMs() - beganMs) * 1000) / 1000, ...happening });
      return count;
    },
    close() {
      if (file !== undefined) closeSync(file);
      file = undefined;
    },
  };
}

function openEmpty(path: string): number {
  const status = statSync(path, { throwIfNoEntry: false });
  if (status !== undefined && !status.isFile() && !status.isDirectory()) {
    throw new MeshError("storage_failed", `cannot record to ${path}: it is no regular file`, {
      hint: "Choose another path.",
    });
  }
  return openSync(path, "w", 0o600);
}
