/**
 * What an agent and its host say to each other when neither needs a terminal: a JSON object a line, as Claude Code does with `-p
 * --input-format stream-json --output-format stream-json --verbose`. Relied upon: `user` lines go in; `assistant` lines carry a message of the
 * Messages API, possibly one block of it at a time under the same id; a `result` line ends each turn; `control_request` lines go both ways
 * and are answered with `control_response`; before the first `user` line nothing comes out but answers. What else there is is passed over, and
 * so are fields that do not have the expected type, since the format grows from version to version.
 */
import * as v from "valibot";
import { jsonFault } from "~/wire/fault";

const optional = <const Schema extends v.GenericSchema>(schema: Schema) =>
  v.fallback(v.optional(schema), undefined);
const Text = v.string();
const Count = v.fallback(v.pipe(v.number(), v.safeInteger(), v.minValue(0)), 0);
const MaybeCount = v.optional(Count, 0);

/** Tokens of one request to the model, or their sum. */
const Usage = v.object({
  input_tokens: MaybeCount,
  cached_input_tokens: MaybeCount,
  cache_creation_input_tokens: MaybeCount,
  cache_read_input_tokens: MaybeCount,
  output_tokens: MaybeCount,
  reasoning_output_tokens: MaybeCount,
});
export type AgentUsage = v.InferOutput<typeof Usage>;

/** Of a whole session, for each model in it. */
const ModelUsage = v.object({
  inputTokens: MaybeCount,
  outputTokens: MaybeCount,
  cacheReadInputTokens: MaybeCount,
  cacheCreationInputTokens: MaybeCount,
  contextWindow: MaybeCount,
});
export type AgentModelUsage = v.InferOutput<typeof ModelUsage>;

const Block = v.looseObject({ type: Text, text: optional(Text), name: optional(Text) });
const Content = v.fallback(v.union([Text, v.array(Block)]), []);

const AgentLine = v.variant("type", [
  v.object({
    type: v.literal("system"),
    subtype: optional(Text),
    model: optional(Text),
    message: optional(Text),
    content: optional(Text),
    tool_name: optional(Text),
  }),
  v.object({
    type: v.literal("assistant"),
    message: v.object({
      id: optional(Text),
      model: optional(Text),
      content: Content,
      usage: optional(Usage),
    }),
    /** The tool call in which another agent says this; null or absent when it is the agent itself. */
    parent_tool_use_id: optional(v.nullable(Text)),
  }),
  v.object({
    type: v.literal("result"),
    subtype: optional(Text),
    is_error: optional(v.boolean()),
    result: optional(Text),
    errors: optional(v.array(Text)),
    num_turns: optional(v.number()),
    usage: optional(Usage),
    modelUsage: optional(v.record(Text, ModelUsage)),
  }),
  v.object({
    type: v.literal("control_request"),
    request_id: Text,
    request: v.looseObject({
      subtype: Text,
      tool_name: optional(Text),
      input: optional(v.record(Text, v.unknown())),
    }),
  }),
  v.object({
    type: v.literal("control_response"),
    response: v.object({ subtype: Text, request_id: Text, error: optional(Text) }),
  }),
  v.object({ type: v.literal("stream_event"), parent_tool_use_id: optional(v.nullable(Text)) }),
]);
export type AgentLine = v.InferOutput<typeof AgentLine>;
export type AgentLineOf<Type extends AgentLine["type"]> = Extract<AgentLine, { type: Type }>;

export type ParsedLine =
  | { kind: "line"; line: AgentLine }
  /** Something that we have no use for. */
  | { kind: "other"; type: string }
  | { kind: "malformed"; reason: string };

const known: ReadonlySet<string> = new Set(AgentLine.options.map((option) => option.entries.type.literal));

export function parseAgentLine(text: string): ParsedLine {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    return { kind: "malformed", reason: jsonFault(error) };
  }
  const named = v.safeParse(v.looseObject({ type: Text }), value);
  if (!named.success) return { kind: "malformed", reason: 'an object with "type" expected' };
  const { type } = named.output;
  if (!known.has(type)) return { kind: "other", type };
  const parsed = v.safeParse(AgentLine, value);
  if (parsed.success) return { kind: "line", line: parsed.output };
  const where = v.getDotPath(parsed.issues[0]) ?? type;
  return { kind: "malformed", reason: `"${where}" of a line of type ${type} is not as expected` };
}

// ── What we say ─────────────────────────────────────────────────────────────────────────────────────────────────────────

const line = (value: unknown): string => `${JSON.stringify(value)}\n`;

/** `text` is what the user says, as one block. Half of a pair of surrogates, which is no character, is replaced. */
export const encodeUserLine = (text: string): string =>
  line({
    type: "user",
    message: { role: "user", content: [{ type: "text", text: text.toWellFormed() }] },
    parent_tool_use_id: null,
    session_id: "default",
  });

/** `initialize`: answered as soon as the agent reads. `interrupt`: ends the turn that it is in. */
export const encodeControlRequest = (requestId: string, subtype: "initialize" | "interrupt"): string =>
  line({ type: "control_request", request_id: requestId, request: { subtype } });

/** `input`: as the agent sent it. */
export const encodePermission = (
  requestId: string,
  decision:
    | { behavior: "allow"; input: Readonly<Record<string, unknown>> }
    | { behavior: "deny"; message: string },
): string =>
  line({
    type: "control_response",
    response: {
      subtype: "success",
      request_id: requestId,
      response:
        decision.behavior === "allow" ? { behavior: "allow", updatedInput: decision.input } : decision,
    },
  });

/** For a request that we cannot serve: left without an answer, the agent would wait for ever. */
export const encodeControlRefusal = (requestId: string, error: string): string =>
  line({ type: "control_response", response: { subtype: "error", request_id: requestId, error } });
