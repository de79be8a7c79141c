/**
 * Reads what a mock has recorded (wire/mock-recording.ts). A recorder that was killed may have left its last line unfinished: that
 * one does not count. Any other line that cannot be understood is refused with its number, rather than answered around.
 */
import * as v from "valibot";
import { readFileIfThere } from "~/disk/file";
import { MeshError } from "~/errors";
import { recordingBytesMax } from "~/wire/limits";
import { Recorded, RecordingHead } from "~/wire/mock-recording";
import { explainIssues } from "~/wire/text";

export interface Recording {
  head: RecordingHead;
  /** In the order in which they happened. */
  entries: Recorded[];
}

/** Throws `recording_invalid` with the first line that is wrong, `storage_failed` when the file cannot be read. */
export function readRecording(path: string): Recording {
  const bytes = readFileIfThere(path, ({ size }) => {
    if (size > recordingBytesMax) {
      throw invalid(path, undefined, `too large: at most ${recordingBytesMax} bytes are read`);
    }
  });
  if (bytes === undefined) {
    throw new MeshError("storage_failed", `there is no recording ${path}`, {
      hint: "A mock writes one with --record FILE.",
    });
  }
  const lines = bytes.toString("utf8").split("\n");
  // Behind the last newline stands nothing, or what a killed recorder was writing.
  const unfinished = lines.pop() ?? "";
  if (jsonOf(unfinished) !== undefined) lines.push(unfinished);
  const [first = "", ...rest] = lines;
  const head = parseLine(RecordingHead, path, 1, first);
  const entries = rest.map((line, index) => parseLine(Recorded, path, index + 2, line));
  return { head, entries };
}

function parseLine<S extends v.GenericSchema>(
  schema: S,
  path: string,
  number: number,
  line: string,
): v.InferOutput<S> {
  const value = jsonOf(line);
  if (value === undefined) throw invalid(path, number, line === "" ? "the line is empty" : "not JSON");
  const parsed = v.safeParse(schema, value, { abortEarly: true });
  if (parsed.success) return parsed.output;
  throw invalid(path, number, explainIssues(parsed.issues));
}

/** Undefined when it is none. */
function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined; // The caller says where.
  }
}

function invalid(path: string, line: number | undefined, what: string): MeshError {
  const place = line === undefined ? path : `${path}:${line}`;
  return new MeshError("recording_invalid", `${place}: ${what}`, {
    hint: "A recording is what claudemesh mock pilot or mock daemon writes with --record FILE.",
    details: { file: path, ...(line === undefined ? {} : { line }) },
  });
}
