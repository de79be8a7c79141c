/**
 * A script's file as what it says (wire/mock-script.ts). What is wrong with it is told with the place, the key and the reason, and
 * nothing is started with a script that is only partly understood.
 */
import { isUtf8 } from "node:buffer";
import {
  findNodeAtLocation,
  getNodePath,
  getNodeValue,
  type Node,
  type ParseError,
  parseTree,
  printParseErrorCode,
} from "jsonc-parser";
import * as v from "valibot";
import { readFileIfThere } from "~/disk/file";
import { MeshError } from "~/errors";
import { mockJsonDepthMax, scriptBytesMax } from "~/wire/limits";
import { MockScript } from "~/wire/mock-script";
import { closest } from "~/wire/suggestion";
import { firstTooDeep } from "~/wire/text";

export type ScriptPath = readonly (string | number)[];

export interface ReadScript<K extends MockScript["mock"]> {
  script: Extract<MockScript, { mock: K }>;
  /** The error for what stands at `path` in the file. */
  fault(path: ScriptPath, reason: string): MeshError;
}

/** Throws `script_invalid` with the first thing that is wrong, `storage_failed` when the file cannot be read. */
export function readScript<K extends MockScript["mock"]>(path: string, mock: K): ReadScript<K> {
  const text = readText(path);
  const tooDeep = firstTooDeep(text, mockJsonDepthMax);
  if (tooDeep !== undefined) {
    throw invalid(path, text, tooDeep, `more than ${mockJsonDepthMax} objects and lists inside each other`);
  }
  const errors: ParseError[] = [];
  const root = parseTree(text, errors, { disallowComments: true });
  const [error] = errors;
  if (error !== undefined || root === undefined) {
    throw invalid(path, text, error?.offset ?? 0, `not JSON: ${wordsOf(error)}`);
  }
  const fault = (at: ScriptPath, reason: string): MeshError =>
    invalid(path, text, offsetOf(root, at), `${renderPath(at)}${reason}`);
  if (root.type !== "object") throw fault([], "an object expected");
  const twice = firstTwice(root);
  if (twice !== undefined) {
    throw invalid(path, text, twice.offset, `${renderPath(getNodePath(twice))}this key is here twice`);
  }
  const parsed = v.safeParse(MockScript, getNodeValue(root), { abortEarly: true });
  if (!parsed.success) {
    const { path: at, issue } = innermost(parsed.issues[0]);
    throw fault(at, reasonOf(issue));
  }
  const { output } = parsed;
  if (!isFor(output, mock)) {
    throw fault(["mock"], `this script is for mock ${output.mock}; "${mock}" expected`);
  }
  return { script: output, fault };
}

const isFor = <K extends MockScript["mock"]>(
  script: MockScript,
  mock: K,
): script is Extract<MockScript, { mock: K }> => script.mock === mock;

function readText(path: string): string {
  const bytes = readFileIfThere(path, ({ size }) => {
    if (size <= scriptBytesMax) return;
    throw new MeshError(
      "script_invalid",
      `${path} is too large: a script has at most ${scriptBytesMax} bytes`,
    );
  });
  if (bytes === undefined) {
    throw new MeshError("storage_failed", `there is no script ${path}`, {
      hint: "Check the path after --script.",
    });
  }
  // The mark that some editors put before UTF-8 counts as a space: so every place stays what it is.
  const text = bytes.toString("utf8").replace(/^\uFEFF/, " ");
  if (!isUtf8(bytes)) throw invalid(path, text, text.indexOf("\uFFFD"), "not UTF-8");
  return text;
}

/** A key that an object has already: of two values one would be passed over in silence. */
function firstTwice(node: Node): Node | undefined {
  const keys = new Set<unknown>();
  for (const child of node.children ?? []) {
    const [key] = child.type === "property" ? (child.children ?? []) : [];
    if (key !== undefined && keys.has(key.value)) return key;
    if (key !== undefined) keys.add(key.value);
    const within = firstTwice(child);
    if (within !== undefined) return within;
  }
  return undefined;
}

function invalid(path: string, text: string, offset: number, what: string): MeshError {
  const before = text.slice(0, offset).split("\n");
  const place = { line: before.length, column: (before.at(-1) ?? "").length + 1 };
  return new MeshError("script_invalid", `${path}:${place.line}:${place.column}: ${what}`, {
    hint: "claudemesh mock schema prints what a script may hold, as JSON Schema.",
    details: { file: path, ...place },
  });
}

/** The place of what is there; of what is missing, the place of what should hold it. */
function offsetOf(root: Node, path: ScriptPath): number {
  for (let length = path.length; length > 0; length--) {
    const node = findNodeAtLocation(root, path.slice(0, length));
    if (node !== undefined) return node.offset;
  }
  return root.offset;
}

function renderPath(path: ScriptPath): string {
  const text = path.map((key) => (typeof key === "number" ? `[${key}]` : `.${key}`)).join("");
  return text === "" ? "" : `${text.replace(/^\./, "")}: `;
}

/** `InvalidSymbol` as "invalid symbol". */
const wordsOf = (error: ParseError | undefined): string =>
  error === undefined
    ? "the file is empty"
    : printParseErrorCode(error.error)
        .replace(/([a-z])([A-Z])/g, "$1 $2")
        .toLowerCase();

/** Of a choice between forms, what is wrong with the one that fits best: the one that was left last, or has a word as it was given. */
function innermost(issue: v.BaseIssue<unknown>): { path: ScriptPath; issue: v.BaseIssue<unknown> } {
  const path = (issue.path ?? []).map(({ key }) => key as string | number);
  const forms = issue.type === "union" ? (issue.issues ?? []).map(innermost) : [];
  const [best] = forms
    .filter(
      (form) => form.path.length > 0 || (form.issue.type === "picklist" && typeof issue.input === "string"),
    )
    .sort((left, right) => right.path.length - left.path.length);
  return best === undefined ? { path, issue } : { path: [...path, ...best.path], issue: best.issue };
}

/** Longer lists help nobody; the schema has them. */
const optionsShownMax = 50;

function reasonOf(issue: v.BaseIssue<unknown>): string {
  if (issue.type === "strict_object" && issue.expected === "never") {
    return "this key means nothing here";
  }
  if (issue.received === "undefined") return "missing";
  if (issue.type === "picklist" || issue.type === "variant") {
    const options = (issue.expected ?? "").split(" | ").map((option) => option.replace(/^\(?"|"\)?$/g, ""));
    const unknown = `${JSON.stringify(issue.input)} is not known`;
    const guess = typeof issue.input === "string" ? closest(issue.input, options) : undefined;
    if (guess !== undefined) return `${unknown}; did you mean ${guess}?`;
    return options.length > optionsShownMax ? unknown : `${unknown}; one of: ${options.join(", ")}`;
  }
  // Objects that are read here have no prototype, by which they would be known.
  const isObject = typeof issue.input === "object" && issue.input !== null;
  return isObject ? issue.message.replace(/ received null$/, " received an object") : issue.message;
}
