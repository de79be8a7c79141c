/**
 * A script for the Pilot mock, held against the tables of wire/pilot.ts and counted down as it is played: which rule answers a
 * request, and what is pushed after it. It decides; sending is the mock's business.
 */
import * as v from "valibot";
import type { MeshError } from "~/errors";
import type { ScriptPath } from "~/mock/script";
import type { PilotPush, PilotRule, PilotScript } from "~/wire/mock-script";
import {
  type Layout,
  type PilotAnswerName,
  type PilotRequest,
  type PilotRequestName,
  pilotAnswers,
  pilotRequestNames,
  pilotRequests,
} from "~/wire/pilot";

/** What is to be done with a request, after `delayMs`. */
export interface PilotStep {
  delayMs: number;
  effect: PilotEffect;
}

export type PilotEffect =
  | { kind: "usual" }
  /** The usual answer with these fields in place of its own. */
  | { kind: "reply"; fields: Readonly<Record<string, unknown>> }
  | { kind: "error"; code: number; text: string }
  | { kind: "drop" }
  /** Instead of the usual answer, or after so many bytes of it. */
  | { kind: "cut"; afterBytes: number }
  | { kind: "bytes"; bytes: Uint8Array };

/** What is to be sent unasked, after `delayMs`. */
export interface PilotDue {
  delayMs: number;
  what:
    | { kind: "push"; name: PilotAnswerName; fields: Readonly<Record<string, unknown>> }
    | { kind: "bytes"; bytes: Uint8Array }
    | { kind: "cut" };
}

type Values = Readonly<Record<string, unknown>>;

interface Turn {
  names: ReadonlySet<string>;
  where: Values;
  /** How often it still applies. */
  left: number;
}
type RuleTurn = Turn & PilotStep;
type PushTurn = Turn & PilotDue;

const usualStep: PilotStep = { delayMs: 0, effect: { kind: "usual" } };

export type Play = Pick<PilotPlay, "step" | "due" | "hasPushes">;
/** Without a script. */
export const usualPlay: Play = { hasPushes: false, step: () => usualStep, due: () => [] };

export class PilotPlay {
  readonly #rules: readonly RuleTurn[];
  readonly #pushes: readonly PushTurn[];

  /** Throws `script_invalid` (through `fault`) where a rule and the command that it names do not fit. */
  constructor(script: PilotScript, fault: (path: ScriptPath, reason: string) => MeshError) {
    this.#rules = (script.rules ?? []).map((rule, index) => ruleTurn(rule, ["rules", index], fault));
    this.#pushes = (script.pushes ?? []).map((push, index) => pushTurn(push, ["pushes", index], fault));
  }

  /** False: spare the trouble of asking what is due. */
  get hasPushes(): boolean {
    return this.#pushes.length > 0;
  }

  step({ name, fields }: PilotRequest): PilotStep {
    return this.#rules.find((rule) => use(rule, name, fields)) ?? usualStep;
  }

  /** `values`: the fields of the request and of its answer, as they were. */
  due(name: PilotRequestName | "connect", values: Values): PilotDue[] {
    return this.#pushes
      .filter((push) => use(push, name, values))
      .map(({ delayMs, what }) =>
        what.kind === "push"
          ? {
              delayMs,
              what: { ...what, fields: { ...taken(pilotAnswers[what.name], values), ...what.fields } },
            }
          : { delayMs, what },
      );
  }
}

function use(turn: Turn, name: string, values: Values): boolean {
  if (turn.left === 0 || !turn.names.has(name)) return false;
  if (!Object.entries(turn.where).every(([field, value]) => Bun.deepEquals(value, values[field])))
    return false;
  turn.left--;
  return true;
}

/** Those of `values` that are fields of `layout`. */
export const taken = ({ fields }: Layout, values: Values): Record<string, unknown> =>
  Object.fromEntries(
    Object.keys(fields).flatMap((field) => (field in values ? [[field, values[field]]] : [])),
  );

// ── Reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────

type Fault = (path: ScriptPath, reason: string) => MeshError;

/** The commands that a word of a script stands for. */
const namesOf = (on: string): PilotRequestName[] =>
  pilotRequestNames.filter((name) => on === "*" || name === on || name.startsWith(`${on}.`));

function ruleTurn(rule: PilotRule, path: ScriptPath, fault: Fault): RuleTurn {
  const names = namesOf(rule.on);
  return {
    names: new Set(names),
    where: whereOf(rule.where, names, [...path, "where"], fault),
    left: rule.times ?? Number.POSITIVE_INFINITY,
    delayMs: rule.delay_ms ?? 0,
    effect: effectOf(rule, names, path, fault),
  };
}

function effectOf(
  rule: PilotRule,
  names: readonly PilotRequestName[],
  path: ScriptPath,
  fault: Fault,
): PilotEffect {
  if ("reply" in rule) {
    const fields: Record<string, unknown> = {};
    for (const answer of new Set(names.map((name) => pilotRequests[name].answer))) {
      Object.assign(fields, replyFields(answer, rule.reply, [...path, "reply"], fault));
    }
    return { kind: "reply", fields };
  }
  if (rule.error !== undefined) {
    const { code, text } = typeof rule.error === "string" ? { code: 1, text: rule.error } : rule.error;
    return { kind: "error", code, text };
  }
  if (rule.drop) return { kind: "drop" };
  if (rule.cut !== undefined)
    return { kind: "cut", afterBytes: rule.cut === true ? 0 : rule.cut.after_bytes };
  if (rule.bytes !== undefined) return { kind: "bytes", bytes: rule.bytes };
  return { kind: "usual" };
}

/** A reply that is JSON is written as that JSON; any other by its fields. */
function replyFields(name: PilotAnswerName, reply: unknown, path: ScriptPath, fault: Fault): Values {
  const { fields }: Layout = pilotAnswers[name];
  return "body" in fields
    ? parseFields(fields, { body: reply }, path, fault)
    : parseFields(fields, reply, path, fault);
}

function parseFields(fields: Layout["fields"], value: unknown, path: ScriptPath, fault: Fault): Values {
  const entries = Object.fromEntries(
    Object.entries(fields).map(([name, { schema }]) => [name, v.exactOptional(schema)]),
  );
  const parsed = v.safeParse(v.strictObject(entries), value);
  if (parsed.success) return parsed.output;
  const [issue] = parsed.issues;
  if (issue.type === "strict_object" && issue.expected === "never") {
    const known = Object.keys(fields);
    throw fault(
      [...path, ...keysOf(issue)],
      known.length === 0 ? "there are no fields here" : `the fields here are ${known.join(", ")}`,
    );
  }
  throw fault([...path, ...keysOf(issue)], issue.message);
}

const keysOf = (issue: v.BaseIssue<unknown>): string[] => (issue.path ?? []).map(({ key }) => String(key));

/** Every command that is meant has these fields; otherwise the rule could never apply to some of them, unnoticed. */
function whereOf(
  where: Values | undefined,
  names: readonly PilotRequestName[],
  path: ScriptPath,
  fault: Fault,
): Values {
  let values: Values = {};
  for (const name of where === undefined ? [] : names)
    values = parseFields(pilotRequests[name].fields, where, path, fault);
  return values;
}

function pushTurn(push: PilotPush, path: ScriptPath, fault: Fault): PushTurn {
  const names = namesOf(push.after);
  return {
    names: new Set<string>(push.after === "connect" ? ["connect"] : names),
    where: whereOf(push.where, names, [...path, "where"], fault),
    left: push.times ?? Number.POSITIVE_INFINITY,
    delayMs: push.delay_ms ?? 0,
    what: whatOf(push, names, path, fault),
  };
}

function whatOf(
  push: PilotPush,
  names: readonly PilotRequestName[],
  path: ScriptPath,
  fault: Fault,
): PilotDue["what"] {
  if (push.bytes !== undefined) return { kind: "bytes", bytes: push.bytes };
  if (push.push === undefined) return { kind: "cut" };
  const layout: Layout = pilotAnswers[push.push];
  const fields = parseFields(layout.fields, push.fields ?? {}, [...path, "fields"], fault);
  const known = [...names.map((name) => knownAfter(name)), ...(push.after === "connect" ? [{}] : [])];
  for (const [field, kind] of Object.entries(layout.fields)) {
    if (field in fields || known.every((there) => there[field] === kind)) continue;
    throw fault(
      path,
      `fields.${field} is missing, and after ${push.after} there is nothing that it could be taken from`,
    );
  }
  return { kind: "push", name: push.push, fields };
}

/** The fields of a command and of its answer, by which a push can be filled. */
function knownAfter(name: PilotRequestName): Layout["fields"] {
  const { fields, answer }: Layout & { answer: PilotAnswerName } = pilotRequests[name];
  return { ...fields, ...pilotAnswers[answer].fields };
}
