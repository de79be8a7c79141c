/**
 * `config.toml`: what a person set. Everything in it must be known and fit; the error names the file, the line, the key, what
 * stands there and what may. It holds no secrets, so that others may read it, but nobody else may write to it.
 */
import type { Stats } from "node:fs";
import { readFileIfThere } from "~/disk/file";
import { MeshError } from "~/errors";
import {
  type Document,
  type Entry,
  type Header,
  type Place,
  parseDocument,
  pathText,
  readValue,
  valuePlaceOf,
  writtenValueOf,
} from "~/settings/document";
import {
  defaultSettings,
  expectationOf,
  fits,
  isKnobName,
  type KnobName,
  type KnobValue,
  knobNames,
  knobOf,
  sections,
} from "~/settings/knobs";
import { settingsFileBytesMax } from "~/wire/limits";
import { closest } from "~/wire/suggestion";

export interface FileValue {
  value: KnobValue;
  line: number;
}
export type FileValues = ReadonlyMap<KnobName, FileValue>;

/** What is set in the file; undefined when there is no file. Throws `config_invalid`, `config_unsafe` or `storage_failed`. */
export async function readSettingsFile(path: string): Promise<FileValues | undefined> {
  const text = readSettingsText(path);
  return text === undefined ? undefined : checkDocument(await parseDocument(text, path), path);
}

/** The file's text as it stands on disk, byte for byte; undefined when there is no file. */
export function readSettingsText(path: string): string | undefined {
  const invalid = (why: string, hint: string) =>
    new MeshError("config_invalid", `${path} ${why}`, { hint, details: { file: path } });
  const bytes = readFileIfThere(path, (status) => {
    refuseIfOthersWrite(path, status);
    if (status.size > settingsFileBytesMax) {
      throw invalid(
        `has ${status.size} bytes; a file of settings has at most ${settingsFileBytesMax}`,
        "Is it the right file? claudemesh config show --defaults lists what may stand in it.",
      );
    }
  });
  try {
    if (bytes === undefined) return undefined;
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw invalid("is not UTF-8", "Save it as UTF-8, which TOML wants.");
  }
}

function refuseIfOthersWrite(path: string, { mode, uid }: Stats): void {
  const self = process.getuid?.();
  if (self !== undefined && uid !== self && uid !== 0) {
    throw new MeshError(
      "config_unsafe",
      `${path} belongs to user id ${uid}, who could change it under you (${self})`,
      {
        hint: `chown ${self} '${path}'`,
      },
    );
  }
  if ((mode & 0o022) !== 0) {
    throw new MeshError(
      "config_unsafe",
      `${path} can be written by other users (mode ${(mode & 0o777).toString(8)})`,
      { hint: `chmod go-w '${path}'` },
    );
  }
}

interface Fault extends Place {
  key: string;
  what: string;
  hint: string;
  expected?: string;
  found?: string;
}

/** The values of a document in which everything is known and fits. Throws `config_invalid` for the first that does not. */
export function checkDocument(document: Document, path: string): FileValues {
  const values = new Map<KnobName, FileValue>();
  const faults: Fault[] = document.headers.flatMap((header) => headerFault(header) ?? []);
  const badHeaders = new Set(faults.map(({ line }) => line));
  for (const entry of document.entries) {
    // What stands in a section that is wrong itself would only say the same again.
    if (entry.node.parent.type === "TOMLTable" && badHeaders.has(entry.node.parent.loc.start.line)) continue;
    const name = pathText(entry.path);
    if (entry.node.value.type === "TOMLInlineTable" && sections.includes(name)) continue;
    const value = readValue(entry.node.value);
    if (!isKnobName(name)) faults.push(unknownKey(entry));
    else if (fits(knobOf(name), value)) values.set(name, { value, line: entry.place.line });
    else faults.push(misfit(name, entry, document));
  }
  faults.push(...contradictions(values));
  const [first, ...others] = faults.sort((a, b) => a.line - b.line || a.column - b.column);
  if (first === undefined) return values;
  const { line, column, key, what, hint, expected, found } = first;
  const more = others.length === 0 ? "" : `; see also line ${others.map((fault) => fault.line).join(", ")}`;
  throw new MeshError("config_invalid", `${path}:${line}:${column}: ${key}: ${what}${more}`, {
    hint,
    details: {
      file: path,
      line,
      column,
      key,
      ...(expected === undefined ? {} : { expected }),
      ...(found === undefined ? {} : { found }),
    },
  });
}

const showHint = "claudemesh config show --defaults lists every key.";

function headerFault({ path, place, isList }: Header): Fault | undefined {
  const [section = ""] = path;
  const name = pathText(path);
  if (isList) {
    const what = "a list of sections is not known here; each section stands once, in single brackets";
    return { ...place, key: `[[${pathText(path.slice(0, -1))}]]`, what, hint: showHint };
  }
  const key = `[${name}]`;
  if (sections.includes(name)) return undefined;
  if (isKnobName(name)) {
    const expected = expectationOf(knobOf(name));
    return { ...place, key, what: `${name} is no section: ${expected} expected`, expected, hint: showHint };
  }
  const guess = sections.includes(section) ? section : closest(section, sections);
  const meant = guess === undefined ? "" : `Did you mean [${guess}]? `;
  return {
    ...place,
    key,
    what: `there is no such section; there are ${sections.map((known) => `[${known}]`).join(", ")}`,
    hint: `${meant}${showHint}`,
  };
}

function unknownKey({ path, place }: Entry): Fault {
  const key = pathText(path);
  const guess = keyMeantBy(path);
  if (sections.includes(key)) {
    return {
      ...place,
      key,
      what: `it is a section, not a value: write [${key}] and its keys below it`,
      hint: showHint,
    };
  }
  const meant = guess === undefined ? "" : `Did you mean ${guess}? `;
  return { ...place, key, what: "there is no such key", hint: `${meant}${showHint}` };
}

/** The same key in another section before a key that is spelled alike. */
export function keyMeantBy(path: readonly string[]): KnobName | undefined {
  const word = path.at(-1) ?? "";
  const sameWord = knobNames.filter((name) => name.endsWith(`.${word}`));
  if (sameWord[0] !== undefined && sameWord.length === 1) return sameWord[0];
  const nearest = closest(path.join("."), knobNames) ?? closest(word, knobNames.map(lastWord));
  return knobNames.find((name) => name === nearest || lastWord(name) === nearest);
}

const lastWord = (name: string): string => name.slice(name.indexOf(".") + 1);

function misfit(name: KnobName, entry: Entry, document: Document): Fault {
  const knob = knobOf(name);
  const expected = expectationOf(knob);
  const found = writtenValueOf(entry, document);
  return {
    ...valuePlaceOf(entry),
    key: name,
    what: `${expected} expected, found ${found}`,
    hint: `${name} ${knob.about}. Mend the line, or go back to the default: claudemesh config unset ${name}`,
    expected,
    found,
  };
}

/** Values that fit one by one and not together. */
function contradictions(values: FileValues): Fault[] {
  const least = values.get("delivery.retry_delay_ms_min");
  const most = values.get("delivery.retry_delay_s_max");
  const leastMs = Number(least?.value ?? defaultSettings["delivery.retry_delay_ms_min"]);
  const mostMs = Number(most?.value ?? defaultSettings["delivery.retry_delay_s_max"]) * 1000;
  if (leastMs <= mostMs) return [];
  const isMostLater = (most?.line ?? 0) > (least?.line ?? 0);
  return [
    {
      line: (isMostLater ? most : least)?.line ?? 1,
      column: 1,
      key: isMostLater ? "delivery.retry_delay_s_max" : "delivery.retry_delay_ms_min",
      what: `the smallest delay, ${leastMs} ms, is above the largest, ${mostMs / 1000} s`,
      hint: "Raise delivery.retry_delay_s_max or lower delivery.retry_delay_ms_min.",
    },
  ];
}
