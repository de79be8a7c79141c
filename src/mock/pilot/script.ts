/**
 * A script for the Pilot mock, held against the tables of wire/pilot.ts: which rule answers a request, and what is pushed after it. It
 * decides; sending is the mock's business.
 */
import * as v from "valibot";
import type { MeshError } from "~/errors";
import { usualErrorCode } from "~/mock/pilot/answers";
import type { ScriptPath } from "~/mock/script";
import { type Turn, take, turnOf } from "~/mock/turn";
import { pilotFrameBytesMax } from "~/wire/limits";
import type { PilotPush, PilotRule, PilotScript } from "~/wire/mock-script";
import {
  type Layout,
  type PilotAnswerName,
  type PilotRequest,
  type PilotRequestName,
  payloadBytes,
  pilotAnswers,
  pilotRequestNames,
  pilotRequests,
} from "~/wire/pilot";
import { JsonObject } from "~/wire/text";

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

/** What a turn may depend on. */
interface Occasion {
  name: PilotRequestName | "connect";
  /** The fields of the request. */
  asked: Values;
  /** Those of its answer as it was given; none when it was not. */
  answered: Values;
}
type RuleTurn = Turn<Occasion> & PilotStep;
type PushTurn = Turn<Occasion> & PilotDue;

const usualStep: PilotStep = { delayMs: 0, effect: { kind: "usual" } };

export type Play = Pick<PilotPlay, "step" | "due" | "hasPushes">;
/** Without a script. */
export const usualPlay: Play = { hasPushes: false, step: () => usualStep, due: () => [] };

export class PilotPlay {
  readonly #rules: readonly RuleTurn[];
  readonly #pushes: readonly PushTurn[];

  /** Throws `script_invalid` (through `fault`) where a rule and the command that it names do not fit. */
  constructor(script: PilotScript, fault: Fault) {
    this.#rules = (script.rules ?? []).map((rule, index) => ruleTurn(rule, ["rules", index], fault));
    this.#pushes = (script.pushes ?? []).map((push, index) => pushTurn(push, ["pushes", index], fault));
  }

  /** False: spare the trouble of asking what is due. */
  get hasPushes(): boolean {
    return this.#pushes.length > 0;
  }

  step({ name, fields }: PilotRequest): PilotStep {
    const occasion: Occasion = { name, asked: fields, answered: {} };
    return this.#rules.find((rule) => take(rule, occasion)) ?? usualStep;
  }

  due(occasion: Occasion): PilotDue[] {
    const values = { ...occasion.asked, ...occasion.answered };
    return this.#pushes
      .filter((push) => take(push, occasion))
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
  const fits = fitting(names, whereOf(rule.where, names, [...path, "where"], fault));
  return { ...turnOf(rule, fits), effect: effectOf(rule, names, path, fault) };
}

function fitting(names: readonly string[], where: Values): (occasion: Occasion) => boolean {
  const meant = new Set(names);
  const wanted = Object.entries(where);
  return ({ name, asked }) =>
    meant.has(name) && wanted.every(([field, value]) => Bun.deepEquals(value, asked[field]));
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
    const error = typeof rule.error === "string" ? { code: usualErrorCode, text: rule.error } : rule.error;
    checkSize("error", error, [...path, "error"], fault);
    return { kind: "error", ...error };
  }
  if (rule.drop) return { kind: "drop" };
  if (rule.cut !== undefined)
    return { kind: "cut", afterBytes: rule.cut === true ? 0 : rule.cut.after_bytes };
  if (rule.bytes !== undefined) return { kind: "bytes", bytes: rule.bytes };
  return { kind: "usual" };
}

/** A reply that is JSON is written as that JSON; any other by its fields. */
function replyFields(name: PilotAnswerName, reply: unknown, path: ScriptPath, fault: Fault): Values {
  const layout: Layout = pilotAnswers[name];
  const fields = parseFields(name, layout, "body" in layout.fields ? { body: reply } : reply, path, fault);
  checkSize(name, fields, path, fault);
  return fields;
}

/** What would be longer than a frame could never be sent. */
function checkSize(name: PilotAnswerName, fields: Values, path: ScriptPath, fault: Fault): void {
  const bytes = payloadBytes(pilotAnswers[name], fields);
  if (bytes > pilotFrameBytesMax)
    throw fault(path, `${bytes} bytes, which are too many for a frame: at most ${pilotFrameBytesMax} fit`);
}

/** `name` is whose fields they are. */
function parseFields(
  name: PilotRequestName | PilotAnswerName,
  { fields }: Layout,
  value: unknown,
  path: ScriptPath,
  fault: Fault,
): Values {
  if (!v.is(JsonObject, value)) throw fault(path, `an object with fields of ${name} expected`);
  const entries = Object.fromEntries(
    Object.entries(fields).map(([field, { schema }]) => [field, v.exactOptional(schema)]),
  );
  const parsed = v.safeParse(v.strictObject(entries), value);
  if (parsed.success) return parsed.output;
  const [issue] = parsed.issues;
  const at = [...path, ...(issue.path ?? []).map(({ key }) => String(key))];
  if (issue.type !== "strict_object" || issue.expected !== "never") throw fault(at, issue.message);
  const known = Object.keys(fields).join(", ");
  throw fault(at, known === "" ? `${name} has no fields` : `the fields of ${name} are ${known}`);
}

/** Every command that is meant has these fields; otherwise the rule could never apply to some of them, unnoticed. */
function whereOf(
  where: Values | undefined,
  names: readonly PilotRequestName[],
  path: ScriptPath,
  fault: Fault,
): Values {
  let values: Values = {};
  for (const name of where === undefined ? [] : names)
    values = parseFields(name, pilotRequests[name], where, path, fault);
  return values;
}

function pushTurn(push: PilotPush, path: ScriptPath, fault: Fault): PushTurn {
  const isConnect = push.after === "connect";
  if (isConnect && push.where !== undefined) throw fault([...path, "where"], "connect has no fields");
  const names = namesOf(push.after);
  const fits = fitting(
    isConnect ? ["connect"] : names,
    whereOf(push.where, names, [...path, "where"], fault),
  );
  const what = whatOf(push, names, path, fault);
  // A command that was refused, or whose answer was lost, has not all that its answer would have told.
  const isKnown = ({ asked, answered }: Occasion): boolean =>
    what.kind !== "push" ||
    Object.keys(pilotAnswers[what.name].fields).every(
      (field) => field in what.fields || field in asked || field in answered,
    );
  return { ...turnOf(push, (occasion: Occasion) => fits(occasion) && isKnown(occasion)), what };
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
  const fields = parseFields(push.push, layout, push.fields ?? {}, [...path, "fields"], fault);
  checkSize(push.push, fields, [...path, "fields"], fault);
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
