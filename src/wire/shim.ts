/**
 * What an orchestrator and an agent's shim say to each other: commands one way, events the other, each the JSON of one frame
 * (wire/frame.ts). The vocabulary is shared with other orchestrators: names, optional fields and null are as they are there.
 * A field that may be absent is left out when there is none; one that may be null is always present.
 */
import * as v from "valibot";
import { jsonFault } from "~/wire/fault";
import { encodeFrame } from "~/wire/frame";
import { shimFrameBytesMax, shimMessageIdCharsMax } from "~/wire/limits";
import { explainIssues } from "~/wire/text";

const Whole = (max: number) => v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(max));
const U16 = Whole(0xffff);
const U32 = Whole(0xffff_ffff);
/** As far as a number counts exactly; 2^53 bytes or tokens are never reached. */
const U64 = Whole(Number.MAX_SAFE_INTEGER);
const I32 = v.pipe(v.number(), v.integer(), v.minValue(-0x8000_0000), v.maxValue(0x7fff_ffff));
const Percent = Whole(0xff);
/** A terminal without rows or columns shows nothing. */
const Side = v.pipe(U16, v.minValue(1));
const Text = v.string();
/** It comes back in events that may hold much else, and has to be whole there. */
const MessageId = v.pipe(Text, v.maxLength(shimMessageIdCharsMax));

// ── Commands ────────────────────────────────────────────────────────────────────────────────────────────────────────

export const shutdownReasons = [
  "requested",
  "restart_handoff",
  "context_exhausted",
  "topology_change",
  "daemon_stop",
] as const;

const plain = <const Name extends string>(name: Name) => v.object({ cmd: v.literal(name) });

export const ShimCommand = v.variant("cmd", [
  v.object({
    cmd: v.literal("SendMessage"),
    from: Text,
    body: Text,
    message_id: v.exactOptional(MessageId),
  }),
  v.object({ cmd: v.literal("CaptureScreen"), last_n_lines: v.exactOptional(v.nullable(U32), null) }),
  plain("GetState"),
  v.object({ cmd: v.literal("Resize"), rows: Side, cols: Side }),
  v.object({
    cmd: v.literal("Shutdown"),
    timeout_secs: U32,
    reason: v.exactOptional(v.picklist(shutdownReasons), "requested"),
  }),
  plain("Kill"),
  plain("Ping"),
]);
export type ShimCommand = v.InferOutput<typeof ShimCommand>;
export type ShimCommandInput = v.InferInput<typeof ShimCommand>;
export type ShimCommandName = ShimCommand["cmd"];

// ── Events ──────────────────────────────────────────────────────────────────────────────────────────────────────────

export const shimStates = ["starting", "idle", "working", "dead", "context_exhausted"] as const;
const ShimStateName = v.picklist(shimStates);
export type ShimStateName = v.InferOutput<typeof ShimStateName>;

const event = <const Name extends string, const Entries extends v.ObjectEntries>(
  name: Name,
  entries: Entries,
) => v.object({ event: v.literal(name), ...entries });

export const ShimEvent = v.variant("event", [
  event("Ready", {}),
  event("StateChanged", { from: ShimStateName, to: ShimStateName, summary: Text }),
  event("MessageDelivered", { id: Text }),
  event("Completion", { message_id: v.exactOptional(Text), response: Text, last_lines: Text }),
  event("Died", { exit_code: v.nullable(I32), last_lines: Text }),
  event("ContextExhausted", { message: Text, last_lines: Text }),
  event("ContextWarning", {
    model: v.nullable(Text),
    output_bytes: U64,
    uptime_secs: U64,
    input_tokens: U64,
    cached_input_tokens: U64,
    cache_creation_input_tokens: U64,
    cache_read_input_tokens: U64,
    output_tokens: U64,
    reasoning_output_tokens: U64,
    used_tokens: U64,
    context_limit_tokens: U64,
    usage_pct: Percent,
  }),
  event("ContextApproaching", { message: Text, input_tokens: U64, output_tokens: U64 }),
  event("ScreenCapture", { content: Text, cursor_row: U16, cursor_col: U16 }),
  event("State", { state: ShimStateName, since_secs: U64 }),
  event("SessionStats", {
    output_bytes: U64,
    uptime_secs: U64,
    input_tokens: U64,
    output_tokens: U64,
    context_usage_pct: v.exactOptional(Percent),
  }),
  event("Pong", {}),
  event("Warning", { message: Text, idle_secs: v.nullable(U64) }),
  event("DeliveryFailed", { id: Text, reason: Text }),
  event("Error", { command: Text, reason: Text }),
]);
export type ShimEvent = v.InferOutput<typeof ShimEvent>;
export type ShimEventName = ShimEvent["event"];

// ── Encoding ────────────────────────────────────────────────────────────────────────────────────────────────────────

/** One frame. Throws `frame_too_large`: what does not fit is not sent. */
export const encodeCommand = (command: ShimCommandInput): Uint8Array =>
  encodeFrame(Buffer.from(jsonOf(command)), shimFrameBytesMax);

/**
 * One frame. An event always fits: the longest of its texts loses its middle, and says so there. An agent may print more than a frame
 * holds, and an event that could not be sent would leave the orchestrator waiting for it.
 */
export function encodeEvent(event: ShimEvent): Uint8Array {
  let bytes = Buffer.from(jsonOf(event));
  if (bytes.length > shimFrameBytesMax) bytes = Buffer.from(jsonOf(fitted(event)));
  return encodeFrame(bytes, shimFrameBytesMax);
}

/** Half of a pair of surrogates, which is no character, would be JSON that strict readers refuse. */
const jsonOf = (value: unknown): string =>
  JSON.stringify(value, (_, part: unknown) => (typeof part === "string" ? part.toWellFormed() : part));

const jsonBytes = (value: unknown): number => Buffer.byteLength(jsonOf(value));

function fitted(event: ShimEvent): Record<string, unknown> {
  const fields: Record<string, unknown> = { ...event };
  let excess = jsonBytes(fields) - shimFrameBytesMax;
  const texts = Object.entries(fields)
    .filter((entry): entry is [name: string, text: string] => typeof entry[1] === "string")
    .map(([name, text]) => ({ name, text, bytes: jsonBytes(text) }))
    .sort((a, b) => b.bytes - a.bytes);
  for (const { name, text, bytes } of texts) {
    if (excess <= 0) break;
    const shorter = withoutMiddle(text, bytes - excess);
    fields[name] = shorter;
    excess -= bytes - jsonBytes(shorter);
  }
  return fields;
}

/**
 * As much of the beginning and the end, in equal parts, as makes at most `bytesMax` of JSON. What is known to fit is not measured again:
 * texts are long here, and others wait meanwhile.
 */
function withoutMiddle(text: string, bytesMax: number): string {
  const { length } = text;
  const notice = (left: number): string => `\n[… ${left} characters left out …]\n`;
  const quotesBytes = 2;
  let fittedBytes = jsonBytes(notice(length));
  let [low, high] = [0, Math.floor(length / 2)];
  while (low < high) {
    const half = Math.ceil((low + high) / 2);
    const moreBytes =
      jsonBytes(text.slice(low, half)) + jsonBytes(text.slice(length - half, length - low)) - 2 * quotesBytes;
    if (fittedBytes + moreBytes <= bytesMax) {
      low = half;
      fittedBytes += moreBytes;
    } else high = half - 1;
  }
  return text.slice(0, low) + notice(length - 2 * low) + text.slice(length - low);
}

// ── Decoding ────────────────────────────────────────────────────────────────────────────────────────────────────────

export type Parsed<T> =
  | { ok: true; value: T }
  /** `name`: the command or event as it was called, as far as it could be read. */
  | { ok: false; name: string | undefined; reason: string };

/** `payload`: what one frame holds. Unknown fields are left out. */
export const parseCommand = (payload: Uint8Array): Parsed<ShimCommand> =>
  parsePayload(ShimCommand, "cmd", payload);

export const parseEvent = (payload: Uint8Array): Parsed<ShimEvent> =>
  parsePayload(ShimEvent, "event", payload);

const utf8 = new TextDecoder("utf-8", { fatal: true });
const nameCharsMax = 64;

function parsePayload<Output>(
  schema: v.GenericSchema<unknown, Output>,
  key: "cmd" | "event",
  payload: Uint8Array,
): Parsed<Output> {
  let text: string;
  try {
    text = utf8.decode(payload);
  } catch {
    return { ok: false, name: undefined, reason: "not valid UTF-8" };
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    return { ok: false, name: undefined, reason: `not JSON: ${jsonFault(error)}` };
  }
  const named = v.safeParse(v.looseObject({ [key]: v.string() }), value);
  if (!named.success) return { ok: false, name: undefined, reason: `an object with "${key}" expected` };
  const name = String(named.output[key]);
  const parsed = v.safeParse(schema, value);
  if (parsed.success) return { ok: true, value: parsed.output };
  const isUnknown = v.getDotPath(parsed.issues[0]) === key;
  return {
    ok: false,
    name: name.slice(0, nameCharsMax),
    reason: isUnknown
      ? `there is no such ${key === "cmd" ? "command" : "event"}`
      : explainIssues(parsed.issues),
  };
}
