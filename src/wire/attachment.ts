/**
 * What a person's terminal and an agent's shim say to each other on the socket beside the control socket: bytes of the terminal both
 * ways, and a few words about it. A frame (wire/frame.ts) begins with one byte that tells the two apart. Both ends are of the same
 * executable, mostly of the same version; the shim's vocabulary for other orchestrators is wire/shim.ts.
 */
import * as v from "valibot";
import { encodeFrame } from "~/wire/frame";
import { attachmentFrameBytesMax } from "~/wire/limits";

const Side = v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(0xffff));
const Pid = v.pipe(v.number(), v.integer(), v.minValue(1));

/** From the terminal to the shim. */
const TerminalWord = v.variant("do", [
  /** `owner`: the agent was started in this terminal, and ends with it unless it detaches first. */
  v.object({ do: v.literal("attach"), rows: Side, cols: Side, owner: v.boolean() }),
  v.object({ do: v.literal("resize"), rows: Side, cols: Side }),
  /** After the terminal has shown something else. */
  v.object({ do: v.literal("repaint") }),
  v.object({ do: v.literal("detach") }),
  v.object({ do: v.literal("describe") }),
  /**
   * After the answer the connection speaks the shim's vocabulary (wire/shim.ts), for somebody who passes by: what happens is told, and
   * kept all the same for the orchestrator that comes next.
   */
  v.object({ do: v.literal("drive") }),
]);
export type TerminalWord = v.InferOutput<typeof TerminalWord>;

export const runtimeNames = ["pty", "stream-json"] as const;
export type RuntimeName = (typeof runtimeNames)[number];

/** One of the two is null. */
const AgentExit = v.object({ code: v.nullable(v.number()), signal: v.nullable(v.string()) });
export type AgentExit = v.InferOutput<typeof AgentExit>;

const AgentDescription = v.object({
  profile: v.string(),
  runtime: v.picklist(runtimeNames),
  /** The agent's process. */
  pid: Pid,
  shim_pid: Pid,
  command: v.array(v.string()),
  cwd: v.string(),
  /** When the agent was started, ISO 8601. */
  started_at: v.string(),
  log: v.nullable(v.string()),
  /** How many terminals are attached. */
  terminals: v.pipe(v.number(), v.integer(), v.minValue(0)),
  /** How the agent has ended, if it has. */
  exit: v.nullable(AgentExit),
});
export type AgentDescription = v.InferOutput<typeof AgentDescription>;

/** From the shim to the terminal. */
const ShimWord = v.variant("is", [
  v.object({ is: v.literal("description"), description: AgentDescription }),
  /** The screen as it is now follows as output. */
  v.object({ is: v.literal("attached") }),
  /** The agent does not read what is typed, and so it is not taken at the moment. */
  v.object({ is: v.literal("waiting") }),
  /** To `drive`: no more words come after it. */
  v.object({ is: v.literal("driving") }),
  v.object({ is: v.literal("refused"), reason: v.string() }),
  /** The last word: no output comes after it. One of the two is null. */
  v.object({ is: v.literal("ended"), exit_code: v.nullable(v.number()), signal: v.nullable(v.string()) }),
]);
export type ShimWord = v.InferOutput<typeof ShimWord>;

const kinds = { bytes: 0, word: 1 } as const;

const framed = (kind: number, content: Uint8Array): Uint8Array => {
  const payload = new Uint8Array(1 + content.length);
  payload[0] = kind;
  payload.set(content, 1);
  return encodeFrame(payload, attachmentFrameBytesMax);
};

/** What a terminal typed, or what it is to show; in as many frames as it takes. */
export function encodeBytes(bytes: Uint8Array): Uint8Array[] {
  const frames: Uint8Array[] = [];
  const portion = attachmentFrameBytesMax - 1;
  for (let at = 0; at < bytes.length; at += portion)
    frames.push(framed(kinds.bytes, bytes.subarray(at, at + portion)));
  return frames;
}

export const encodeTerminalWord = (word: TerminalWord): Uint8Array => encodeWord(word);
export const encodeShimWord = (word: ShimWord): Uint8Array => encodeWord(word);

const encodeWord = (word: TerminalWord | ShimWord): Uint8Array =>
  framed(kinds.word, Buffer.from(JSON.stringify(word)));

export type AttachmentRead<Word> =
  | { kind: "bytes"; bytes: Uint8Array }
  | { kind: "word"; word: Word }
  /** Of another version, or no peer of ours at all. */
  | { kind: "unknown" };

/** `payload`: what one frame holds. */
export const readTerminalFrame = (payload: Uint8Array): AttachmentRead<TerminalWord> =>
  readFrame(TerminalWord, payload);

export const readShimFrame = (payload: Uint8Array): AttachmentRead<ShimWord> => readFrame(ShimWord, payload);

function readFrame<Word>(schema: v.GenericSchema<unknown, Word>, payload: Uint8Array): AttachmentRead<Word> {
  const content = payload.subarray(1);
  if (payload[0] === kinds.bytes) return { kind: "bytes", bytes: content };
  if (payload[0] !== kinds.word) return { kind: "unknown" };
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(content).toString("utf8"));
  } catch {
    return { kind: "unknown" };
  }
  const parsed = v.safeParse(schema, value);
  return parsed.success ? { kind: "word", word: parsed.output } : { kind: "unknown" };
}
