/** Tokens are counted once, however often they are told, and the context is what the last request held. */
import { describe, expect, test } from "bun:test";
import { type ModelLimit, modelLimits, TokenCount } from "~/agent/tokens";
import { type AgentLineOf, parseAgentLine } from "~/wire/stream-json";

interface Told {
  id?: string;
  model?: string;
  usage?: Record<string, unknown>;
  parent?: string;
}

function parsed<Type extends "assistant" | "result">(
  value: Record<string, unknown> & { type: Type },
): AgentLineOf<Type> {
  const read = parseAgentLine(JSON.stringify(value));
  if (read.kind !== "line" || read.line.type !== value.type)
    throw new Error(`not parsed: ${JSON.stringify(read)}`);
  return read.line as AgentLineOf<Type>;
}

const assistant = ({
  id = "msg_1",
  model = "claude-sonnet-4-5",
  usage,
  parent,
}: Told): AgentLineOf<"assistant"> =>
  parsed({
    type: "assistant",
    message: { id, model, content: [], usage },
    parent_tool_use_id: parent ?? null,
  });

const result = (fields: Record<string, unknown> = {}): AgentLineOf<"result"> =>
  parsed({ type: "result", ...fields });

const usage = (input: number, output: number, written = 0, read = 0): Record<string, unknown> => ({
  input_tokens: input,
  output_tokens: output,
  cache_creation_input_tokens: written,
  cache_read_input_tokens: read,
});

const count = (limits: readonly ModelLimit[] = []): TokenCount => new TokenCount(limits);

describe("tokens", () => {
  test("nothing is known before anything was said", () => {
    expect(count().usage).toEqual({
      model: null,
      input: 0,
      cachedInput: 0,
      cacheCreationInput: 0,
      cacheReadInput: 0,
      output: 0,
      reasoningOutput: 0,
      used: 0,
      limit: 0,
    });
  });

  test("a request that is told once a block counts once, with what grew", () => {
    const tokens = count();
    tokens.answered(assistant({ usage: usage(10, 1, 100, 2_000) }));
    tokens.answered(assistant({ usage: usage(10, 30, 100, 2_000) }));
    tokens.answered(assistant({ usage: usage(10, 12, 100, 2_000) }));
    expect(tokens.usage).toMatchObject({
      input: 10,
      output: 30,
      cacheCreationInput: 100,
      cacheReadInput: 2_000,
      used: 2_140,
    });
  });

  test("requests add up; the context is the last one's", () => {
    const tokens = count();
    tokens.answered(assistant({ id: "a", usage: usage(10, 5, 1_000, 0) }));
    tokens.answered(assistant({ id: "b", usage: usage(20, 7, 200, 1_000) }));
    expect(tokens.usage).toMatchObject({
      input: 30,
      output: 12,
      cacheCreationInput: 1_200,
      cacheReadInput: 1_000,
      used: 1_227,
    });
  });

  test("the end of a turn says the sum, which is not added to what was counted", () => {
    const tokens = count();
    tokens.answered(assistant({ id: "a", usage: usage(10, 1, 1_000, 0) }));
    tokens.answered(assistant({ id: "b", usage: usage(20, 1, 200, 1_000) }));
    tokens.turnEnded(result({ num_turns: 2, usage: usage(30, 500, 1_200, 1_000) }));
    expect(tokens.usage).toMatchObject({
      input: 30,
      output: 500,
      cacheCreationInput: 1_200,
      cacheReadInput: 1_000,
    });
    // The sum of several requests is not what the context holds.
    expect(tokens.usage.used).toBe(1_221);
    tokens.answered(assistant({ id: "c", usage: usage(5, 5, 0, 2_000) }));
    tokens.turnEnded(result({ usage: usage(5, 40, 0, 2_000) }));
    expect(tokens.usage).toMatchObject({ input: 35, output: 540, cacheReadInput: 3_000, used: 2_010 });
  });

  test("a sum over the session replaces what was counted, and never goes back", () => {
    const tokens = count();
    const modelUsage = (input: number, output: number) => ({
      "claude-sonnet-4-5": { inputTokens: input, outputTokens: output, contextWindow: 200_000 },
      "claude-haiku-4-5": { inputTokens: 1, outputTokens: 2 },
    });
    tokens.answered(assistant({ id: "a", usage: usage(10, 1) }));
    tokens.turnEnded(result({ usage: usage(10, 50), modelUsage: modelUsage(10, 50) }));
    expect(tokens.usage).toMatchObject({ input: 11, output: 52 });
    tokens.answered(assistant({ id: "b", usage: usage(20, 1) }));
    tokens.turnEnded(result({ usage: usage(20, 70), modelUsage: modelUsage(30, 120) }));
    expect(tokens.usage).toMatchObject({ input: 31, output: 122 });
    tokens.turnEnded(result({ modelUsage: modelUsage(1, 1) }));
    expect(tokens.usage).toMatchObject({ input: 31, output: 122 });
  });

  test("a helper's tokens count, and its context is not the agent's", () => {
    const tokens = count();
    tokens.answered(assistant({ id: "a", usage: usage(10, 5, 0, 1_000) }));
    tokens.answered(
      assistant({ id: "h", model: "claude-haiku-4-5", usage: usage(90_000, 5), parent: "tool_1" }),
    );
    expect(tokens.usage).toMatchObject({ input: 90_010, used: 1_015, model: "claude-sonnet-4-5" });
  });

  test("what no model said is no model's", () => {
    const tokens = count();
    tokens.answered(assistant({ id: "a", usage: usage(10, 5) }));
    tokens.answered(assistant({ id: "s", model: "<synthetic>", usage: usage(0, 0) }));
    expect(tokens.usage).toMatchObject({ model: "claude-sonnet-4-5", used: 15 });
  });

  test("where only the end of a turn tells, it is believed for a turn of one request", () => {
    const tokens = count();
    tokens.answered(assistant({ usage: usage(0, 0) }));
    tokens.turnEnded(result({ num_turns: 1, usage: usage(10, 20, 30, 40) }));
    expect(tokens.usage).toMatchObject({ input: 10, used: 100 });
    tokens.turnEnded(result({ num_turns: 7, usage: usage(10_000, 20, 30, 40) }));
    expect(tokens.usage).toMatchObject({ input: 10_010, used: 100 });
  });

  test("cached input that is a part of the input is not counted twice in the context", () => {
    const tokens = count();
    tokens.answered(
      assistant({
        model: "gpt-5",
        usage: { input_tokens: 100, cached_input_tokens: 80, output_tokens: 5, reasoning_output_tokens: 3 },
      }),
    );
    expect(tokens.usage).toMatchObject({ cachedInput: 80, reasoningOutput: 3, used: 105, limit: 0 });
  });

  test.each([-1, 1.5, "many", null, 2 ** 60])("a count that is none counts as 0: %j", (input_tokens) => {
    const tokens = count();
    tokens.answered(assistant({ usage: { input_tokens, output_tokens: 5 } }));
    expect(tokens.usage).toMatchObject({ input: 0, output: 5 });
  });
});

describe("how much fits", () => {
  const limitOf = (model: string, limits: readonly ModelLimit[] = [], window?: number): number => {
    const tokens = count(limits);
    tokens.started(model);
    tokens.answered(assistant({ model: model.replace("[1m]", ""), usage: usage(1, 1) }));
    if (window !== undefined) {
      tokens.turnEnded(
        result({
          modelUsage: { [model]: { contextWindow: window }, "claude-haiku-4-5": { contextWindow: 77 } },
        }),
      );
    }
    return tokens.usage.limit;
  };

  test.each([
    ["claude-sonnet-4-5-20250929", 200_000],
    ["claude-sonnet-4-5-20250929[1m]", 1_000_000],
    ["claude-opus-4-6", 200_000],
    ["us.anthropic.claude-opus-4-1-20250805-v1:0", 200_000],
    ["claude-opus-5", 1_000_000],
    ["claude-haiku-4-5", 200_000],
    ["something-else", 0],
  ])("by its name: %s", (model, limit) => {
    expect(limitOf(model)).toBe(limit);
  });

  test("what the agent says is better, and its helpers' limits are not its own", () => {
    expect(limitOf("claude-sonnet-4-5", [], 500_000)).toBe(500_000);
    expect(limitOf("something-else", [], 64_000)).toBe(64_000);
  });

  test("what the user says is best", () => {
    expect(limitOf("claude-sonnet-4-5", [{ model: "sonnet", tokens: 123 }], 500_000)).toBe(123);
    expect(limitOf("claude-sonnet-4-5", [{ model: "opus", tokens: 123 }])).toBe(200_000);
    expect(limitOf("anything", [{ model: "", tokens: 5 }])).toBe(5);
  });

  test("no row of the table is behind one that hides it", () => {
    for (const [index, { model }] of modelLimits.entries()) {
      expect(modelLimits.findIndex((other) => model.includes(other.model))).toBe(index);
    }
  });
});
