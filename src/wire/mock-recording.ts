/**
 * What passed through a mock, both ways, as lines of JSON: first one that says whose it is, then one for each thing that happened,
 * in order. `n` counts them, `at_ms` is the time since the mock was up, `conn` counts its connections. What the mock did because of
 * something that a client sent names that in `after`.
 */
import * as v from "valibot";
import { HeaderName, HeaderValue, Hex, HttpStatus } from "~/wire/text";

const Count = v.pipe(v.number(), v.integer(), v.minValue(0));

export const RecordingHead = v.object({ recording: v.picklist(["pilot", "daemon"]), version: v.string() });
export type RecordingHead = v.InferOutput<typeof RecordingHead>;

const happened = { n: Count, at_ms: v.number(), conn: Count };
const caused = { ...happened, after: v.exactOptional(Count) };

export const Recorded = v.variant("dir", [
  v.object({ ...happened, dir: v.literal("open") }),
  v.object({
    ...happened,
    dir: v.literal("in"),
    /** Of Pilot: the command, for people. */
    name: v.exactOptional(v.string()),
    /** Of Pilot a whole frame; of HTTP the body. */
    hex: Hex,
    method: v.exactOptional(v.string()),
    target: v.exactOptional(v.string()),
    /** Without those that hold a secret. */
    headers: v.exactOptional(v.record(v.string(), v.string())),
  }),
  v.object({
    ...caused,
    dir: v.literal("out"),
    name: v.exactOptional(v.string()),
    /** Of Pilot what was written at a time; of HTTP the body, or the next part of it. */
    hex: Hex,
    /** With the first part of an answer over HTTP. */
    status: v.exactOptional(HttpStatus),
    headers: v.exactOptional(v.record(HeaderName, HeaderValue)),
    /** Of HTTP: the bytes were written to the connection as they are, without a status line. */
    raw: v.exactOptional(v.literal(true)),
    /** Of HTTP: no part of this answer follows. */
    last: v.exactOptional(v.literal(true)),
  }),
  v.object({ ...caused, dir: v.literal("close"), by: v.picklist(["client", "mock"]) }),
]);
export type Recorded = v.InferOutput<typeof Recorded>;
