/**
 * A text in TOML 1.0 (https://toml.io/en/v1.0.0) as what it sets, and where it says so. It knows nothing of knobs, and changes
 * nothing. The parser is loaded with the first text: a daemon without a `config.toml` never has it in memory.
 */
import type { AST } from "toml-eslint-parser";
import { MeshError, messageOf } from "~/errors";

/** Both from 1, as editors count. */
export interface Place {
  line: number;
  column: number;
}

/** One `key = value`, wherever it stands: under a header, at the top with dots, or in an inline table. The value is no table, or an empty one. */
export interface Entry {
  path: readonly string[];
  place: Place;
  node: AST.TOMLKeyValue;
}

/** A `[section]`, or a `[[section]]`, which begins a list of them. */
export interface Header {
  path: readonly string[];
  place: Place;
  isList: boolean;
  node: AST.TOMLTable;
}

/** A `section = { … }`; what it holds is among the entries as well. */
export interface InlineTable {
  path: readonly string[];
  node: AST.TOMLInlineTable;
}

export interface Document {
  text: string;
  entries: readonly Entry[];
  headers: readonly Header[];
  inlineTables: readonly InlineTable[];
}

/** Throws `config_invalid` with the place where the text ceases to be TOML. `path` is for the message. */
export async function parseDocument(text: string, path: string): Promise<Document> {
  const { ParseError, parseTOML } = await import("toml-eslint-parser");
  const found: Found = { entries: [], headers: [], inlineTables: [] };
  try {
    // The mark that some editors put before UTF-8 counts as a space: so every place stays what it is.
    const program = parseTOML(text.replace(/^\uFEFF/, " "), { tomlVersion: "1.0" });
    for (const node of program.body[0].body) {
      if (node.type === "TOMLKeyValue") collect(node, [], found);
      else {
        const tablePath = node.resolvedKey.map(String);
        found.headers.push({
          path: tablePath,
          place: placeOf(node.key),
          isList: node.kind === "array",
          node,
        });
        for (const inner of node.body) collect(inner, tablePath, found);
      }
    }
    return { text, ...found };
  } catch (error) {
    const place =
      error instanceof ParseError ? { line: error.lineNumber, column: error.column + 1 } : undefined;
    const at = place === undefined ? "" : `:${place.line}:${place.column}`;
    const line = place === undefined ? "" : quoted(text.split("\n")[place.line - 1] ?? "");
    throw new MeshError("config_invalid", `${path}${at} is not TOML: ${messageOf(error)}${line}`, {
      hint: "Texts stand in quotes, and every key is followed by = and a value. claudemesh does not write to the file until it parses.",
      cause: error,
      details: { file: path, ...place },
    });
  }
}

const quoted = (line: string): string => (line.trim() === "" ? "" : `: ${shortened(line.trim())}`);

interface Found {
  entries: Entry[];
  headers: Header[];
  inlineTables: InlineTable[];
}

function collect(node: AST.TOMLKeyValue, prefix: readonly string[], found: Found): void {
  const path = [...prefix, ...node.key.keys.map(nameOf)];
  const { value } = node;
  const isTable = value.type === "TOMLInlineTable";
  // An empty table sets nothing below it: it stands for itself.
  if (!isTable || value.body.length === 0) found.entries.push({ path, place: placeOf(node.key), node });
  if (!isTable) return;
  found.inlineTables.push({ path, node: value });
  for (const inner of value.body) collect(inner, path, found);
}

const nameOf = (key: AST.TOMLBare | AST.TOMLQuoted): string =>
  key.type === "TOMLBare" ? key.name : key.value;

const placeOf = ({ loc }: AST.TOMLNode): Place => ({ line: loc.start.line, column: loc.start.column + 1 });

/** Where the value stands. */
export const valuePlaceOf = ({ node }: Entry): Place => placeOf(node.value);

/** The value as JavaScript has it; undefined for what no knob takes: floats, times, tables, lists of lists. */
export function readValue(node: AST.TOMLContentNode): unknown {
  if (node.type === "TOMLArray") {
    return node.elements.map((element) => (element.type === "TOMLArray" ? undefined : readValue(element)));
  }
  if (node.type === "TOMLInlineTable") return undefined;
  return node.kind === "boolean" || node.kind === "integer" || node.kind === "string"
    ? node.value
    : undefined;
}

/** The value as it is written, cut to what fits into a message. */
export const writtenValueOf = ({ node }: Entry, { text }: Document): string =>
  shortened(text.slice(...node.value.range).replaceAll(/\s+/g, " "));

const shortened = (text: string): string => (text.length > 60 ? `${text.slice(0, 59)}…` : text);

/** A path as one types it: words that TOML would not take bare stand in quotes. */
export const pathText = (path: readonly string[]): string =>
  path.map((word) => (/^[A-Za-z0-9_-]+$/.test(word) ? word : JSON.stringify(word))).join(".");
