/**
 * How many tokens an agent has used, and how full its context is, from what it says of each request and of each turn. It says the same
 * request several times, a block at a time, with output that only grows; the end of a turn says what it came to in sum. What is in the
 * context is not a sum: it is what the last request of the agent itself read and wrote.
 */
import type { TokenUsage } from "~/agent/runtime";
import type { AgentLineOf, AgentModelUsage, AgentUsage } from "~/wire/stream-json";

/** How many tokens fit into the context of the models whose name contains `model`. */
export interface ModelLimit {
  model: string;
  tokens: number;
}

/** The first that fits counts. Only for an agent that does not say itself how much fits, which it does with its first result. */
export const modelLimits: readonly ModelLimit[] = [
  { model: "[1m]", tokens: 1_000_000 },
  { model: "claude-opus-5", tokens: 1_000_000 },
  { model: "claude-sonnet-5", tokens: 1_000_000 },
  { model: "claude-haiku-5", tokens: 1_000_000 },
  { model: "claude-fable-", tokens: 1_000_000 },
  { model: "claude-", tokens: 200_000 },
];

/** The name under which the agent itself, and no model, puts words into its own mouth. */
export const noModel = "<synthetic>";

type Sum = Omit<TokenUsage, "model" | "used" | "limit">;

export class TokenCount {
  readonly #configured: readonly ModelLimit[];
  /** All turns that have ended. */
  #before: Sum = nothing;
  /** The requests of this turn, by the id of what was answered. */
  readonly #requests = new Map<string, Sum>();
  #unnamed = 0;
  /** As the session was started with, which may say more than the name that each answer bears. */
  #sessionModel: string | undefined;
  #model: string | undefined;
  #used = 0;
  #told: Readonly<Record<string, AgentModelUsage>> = {};

  /** `configured`: by the user, before all else that is known. */
  constructor(configured: readonly ModelLimit[]) {
    this.#configured = configured;
  }

  started(model: string): void {
    this.#sessionModel = model;
  }

  answered({ message, parent_tool_use_id }: AgentLineOf<"assistant">): void {
    if (message.model === noModel) return;
    const isOwn = (parent_tool_use_id ?? null) === null;
    if (isOwn && message.model !== undefined) this.#model = message.model;
    if (message.usage === undefined) return;
    const id = message.id ?? `unnamed ${this.#unnamed++}`;
    const request = larger(this.#requests.get(id) ?? nothing, sumOf(message.usage));
    this.#requests.set(id, request);
    if (isOwn && inContext(request) > 0) this.#used = inContext(request);
  }

  turnEnded({ usage, modelUsage = {}, num_turns = 1 }: AgentLineOf<"result">): void {
    const requests = this.#turn();
    // Some versions say nothing of the single requests. The sum says the same of a turn that was one request, and of no other.
    if (usage !== undefined && inContext(requests) === 0 && num_turns <= 1 && inContext(sumOf(usage)) > 0) {
      this.#used = inContext(sumOf(usage));
    }
    const turn = usage === undefined ? requests : larger(requests, sumOf(usage));
    const session = Object.values(modelUsage).map(sumOfModel).reduce(added, nothing);
    // The sum over the models goes back to the beginning of the session; that of the turn does not.
    this.#before =
      inContext(session) > 0 ? larger(added(this.#before, requests), session) : added(this.#before, turn);
    this.#requests.clear();
    this.#told = { ...this.#told, ...modelUsage };
  }

  get usage(): TokenUsage {
    return {
      ...added(this.#before, this.#turn()),
      model: this.#model ?? this.#sessionModel ?? null,
      used: this.#used,
      limit: this.#limit(),
    };
  }

  #turn(): Sum {
    return [...this.#requests.values()].reduce(added, nothing);
  }

  #limit(): number {
    const names = [this.#sessionModel, this.#model].flatMap((name) => name ?? []);
    const configured = firstLimit(this.#configured, names);
    if (configured !== undefined) return configured;
    const told = Object.entries(this.#told).filter(([, { contextWindow }]) => contextWindow > 0);
    const own = told.filter(([name]) =>
      names.some((other) => name.startsWith(other) || other.startsWith(name)),
    );
    // Helpers have models and limits of their own, smaller ones as a rule.
    const windows = (own.length > 0 ? own : told).map(([, { contextWindow }]) => contextWindow);
    return windows.length > 0 ? Math.max(...windows) : (firstLimit(modelLimits, names) ?? 0);
  }
}

const firstLimit = (limits: readonly ModelLimit[], names: readonly string[]): number | undefined =>
  limits.find(({ model }) => names.some((name) => name.includes(model)))?.tokens;

const nothing: Sum = {
  input: 0,
  cachedInput: 0,
  cacheCreationInput: 0,
  cacheReadInput: 0,
  output: 0,
  reasoningOutput: 0,
};

/** Where an agent tells cached input at all, it is a part of the input; what was read from and written to the cache is not. */
const inContext = ({ input, cacheCreationInput, cacheReadInput, output }: Sum): number =>
  input + cacheCreationInput + cacheReadInput + output;

const sumOf = (usage: AgentUsage): Sum => ({
  input: usage.input_tokens,
  cachedInput: usage.cached_input_tokens,
  cacheCreationInput: usage.cache_creation_input_tokens,
  cacheReadInput: usage.cache_read_input_tokens,
  output: usage.output_tokens,
  reasoningOutput: usage.reasoning_output_tokens,
});

const sumOfModel = (usage: AgentModelUsage): Sum => ({
  ...nothing,
  input: usage.inputTokens,
  cacheCreationInput: usage.cacheCreationInputTokens,
  cacheReadInput: usage.cacheReadInputTokens,
  output: usage.outputTokens,
});

const added = (a: Sum, b: Sum): Sum => combined(a, b, (one, other) => one + other);
const larger = (a: Sum, b: Sum): Sum => combined(a, b, Math.max);

const combined = (a: Sum, b: Sum, combine: (one: number, other: number) => number): Sum => ({
  input: combine(a.input, b.input),
  cachedInput: combine(a.cachedInput, b.cachedInput),
  cacheCreationInput: combine(a.cacheCreationInput, b.cacheCreationInput),
  cacheReadInput: combine(a.cacheReadInput, b.cacheReadInput),
  output: combine(a.output, b.output),
  reasoningOutput: combine(a.reasoningOutput, b.reasoningOutput),
});
