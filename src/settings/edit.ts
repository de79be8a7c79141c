/**
 * Changing one key of `config.toml` and nothing else: every other character, comments and order among them, stays as it is.
 * To set a key is refused, and nothing written, when the file does not fit afterwards. To take one out makes no file worse, and
 * is the way out of one with several mistakes.
 */
import { statSync } from "node:fs";
import { dirname } from "node:path";
import { ensureOwnDirectory, writeFileAtomic } from "~/disk/file";
import { lockToChange } from "~/disk/lock";
import { type Document, type Entry, parseDocument, pathText } from "~/settings/document";
import { checkDocument, type FileValues, readSettingsText } from "~/settings/file";
import type { KnobName, KnobValue } from "~/settings/knobs";

const newFileText = `# The settings of claudemesh on this host. What is not set here follows the default: claudemesh config show --defaults
# lists every key. A running daemon takes over changes by itself; claudemesh daemon status says what waits for a restart.
`;

/** Sets one key, making the file if there is none. Throws `config_invalid` when the file does not fit afterwards. */
export async function setInFile(
  path: string,
  name: KnobName,
  value: Exclude<KnobValue, null>,
): Promise<FileValues> {
  const change = async (document: Document) => {
    const text = withValue(document, name, renderValue(value));
    return { text, result: checkDocument(await parseDocument(text, path), path) };
  };
  return await changeFile(path, change);
}

/** Removes one key, known or not. False: it was not set. */
export const unsetInFile = (path: string, name: string): Promise<boolean> =>
  changeFile(path, async (document) => {
    const text = withoutKey(document, name);
    return { text: text ?? document.text, result: text !== undefined };
  });

/** Reads, changes and writes as one step, however many processes do so at once. */
async function changeFile<T>(
  path: string,
  change: (document: Document) => Promise<{ text: string; result: T }>,
): Promise<T> {
  ensureOwnDirectory(dirname(path));
  const lock = lockToChange(`${path}.lock`);
  try {
    const before = readSettingsText(path);
    const { text, result } = await change(await parseDocument(before ?? newFileText, path));
    // Nothing was there and nothing was set: then nothing need be there.
    if (text !== (before ?? newFileText)) writeFileAtomic(path, text, modeOf(path));
    return result;
  } finally {
    lock.release();
  }
}

/** Whoever could read the file still can. */
const modeOf = (path: string): number => (statSync(path, { throwIfNoEntry: false })?.mode ?? 0o600) & 0o777;

/** As TOML writes it. Texts of knobs are plain: what JSON escapes in them, TOML escapes alike. */
export function renderValue(value: Exclude<KnobValue, null>): string {
  if (typeof value === "string") return JSON.stringify(value);
  if (typeof value === "boolean" || typeof value === "number") return String(value);
  return `[${value.map((entry) => JSON.stringify(entry)).join(", ")}]`;
}

/** The text with this key set to `written`: where it stands, else where its section stands, else in a new section at the end. */
export function withValue(document: Document, name: KnobName, written: string): string {
  const { text, entries, headers, inlineTables } = document;
  const present = findEntry(document, name);
  if (present !== undefined) return spliced(text, present.node.value.range, written);
  const [section = "", key = ""] = name.split(".");
  const statement = `${key} = ${written}`;
  const isSection = ({ path }: { path: readonly string[] }) => path.length === 1 && path[0] === section;

  const header = headers.find((candidate) => !candidate.isList && isSection(candidate));
  if (header !== undefined) return withLineAfter(text, header.node.body.at(-1) ?? header.node.key, statement);
  const inline = inlineTables.find(isSection)?.node;
  if (inline !== undefined) {
    const last = inline.body.at(-1);
    if (last === undefined) return spliced(text, inline.range, `{ ${statement} }`);
    return spliced(text, [last.range[1], last.range[1]], `, ${statement}`);
  }
  // A section that was begun with dots may not have a header as well.
  const dotted = entries.findLast(({ path }) => path.length === 2 && path[0] === section);
  if (dotted !== undefined) return withLineAfter(text, dotted.node, `${section}.${statement}`);
  const eol = lineEndOf(text);
  const gap = text === "" ? "" : text.endsWith("\n") ? eol : eol + eol;
  return `${text}${gap}[${section}]${eol}${statement}${eol}`;
}

/** The text without this key: without its line, or without its place in an inline table. Undefined when it is not there. */
export function withoutKey(document: Document, name: string): string | undefined {
  const { text } = document;
  const entry = findEntry(document, name);
  if (entry === undefined) return undefined;
  const { range, parent } = entry.node;
  if (parent.type !== "TOMLInlineTable") {
    const end = text.indexOf("\n", range[1]);
    return spliced(text, [lineStartOf(text, range[0]), end === -1 ? text.length : end + 1], "");
  }
  const index = parent.body.indexOf(entry.node);
  const before = parent.body[index - 1];
  const after = parent.body[index + 1];
  if (after !== undefined) return spliced(text, [range[0], after.range[0]], "");
  return spliced(text, [before?.range[1] ?? range[0], range[1]], "");
}

const findEntry = ({ entries }: Document, name: string): Entry | undefined =>
  entries.find(({ path }) => pathText(path) === name);

const spliced = (text: string, [start, end]: readonly [number, number], instead: string): string =>
  text.slice(0, start) + instead + text.slice(end);

/** A line of its own after the one that `node` ends on, with its indentation; a comment behind it stays where it is. */
function withLineAfter(text: string, node: { range: readonly [number, number] }, statement: string): string {
  const [start, end] = node.range;
  const indentation = /^[ \t]*/.exec(text.slice(lineStartOf(text, start), start))?.[0] ?? "";
  const eol = lineEndOf(text);
  const next = text.indexOf("\n", end) + 1;
  if (next === 0) return `${text}${eol}${indentation}${statement}${eol}`;
  return spliced(text, [next, next], `${indentation}${statement}${eol}`);
}

const lineStartOf = (text: string, offset: number): number => text.lastIndexOf("\n", offset - 1) + 1;

const lineEndOf = (text: string): string => (text.includes("\r\n") ? "\r\n" : "\n");
