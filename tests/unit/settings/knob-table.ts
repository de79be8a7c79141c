/**
 * The table of docs/configuration.md, made from the knobs. `bun tests/unit/settings/knob-table.ts` writes it into the document;
 * documentation.test.ts fails when the document says anything else.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { renderValue } from "~/settings/edit";
import { type Knob, knobNames, knobOf, sections } from "~/settings/knobs";

export const documentPath = join(import.meta.dir, "../../../docs/configuration.md");

export function renderKnobTables(): string {
  return sections
    .flatMap((section) => [
      `### \`[${section}]\``,
      "",
      "| key | default | may be | applies | what it does |",
      "|---|---|---|---|---|",
      ...knobNames.filter((name) => name.startsWith(`${section}.`)).map(renderRow),
      "",
    ])
    .join("\n")
    .trimEnd();
}

function renderRow(name: (typeof knobNames)[number]): string {
  const knob = knobOf(name);
  const key = name.slice(name.indexOf(".") + 1);
  const fallback = knob.default === null ? "none" : `\`${renderValue(knob.default)}\``;
  return `| \`${key}\` | ${fallback} | ${allowed(knob)} | ${knob.live ? "at once" : "after a restart"} | ${knob.about} |`;
}

function allowed(knob: Knob): string {
  switch (knob.kind) {
    case "flag":
      return "`true`, `false`";
    case "number":
      return `${knob.min} to ${knob.max}${knob.unit === "port" ? "" : ` ${knob.unit}`}`;
    case "choice":
      return knob.options.map((option) => `\`"${option}"\``).join(", ");
    case "list":
      return `a list of at most ${knob.entriesMax}, each ${knob.entry.expected}`;
  }
}

const [begin, end] = ["<!-- knobs -->\n\n", "\n\n<!-- end of knobs -->"];

/** What the document has between its two marks, and the document with something else there. */
export function knobTablesOf(document: string): { tables: string; replaceBy(tables: string): string } {
  const from = document.indexOf(begin) + begin.length;
  const to = document.indexOf(end);
  if (from < begin.length || to < from)
    throw new Error(`${documentPath} has no place for the table of knobs`);
  return {
    tables: document.slice(from, to),
    replaceBy: (tables) => document.slice(0, from) + tables + document.slice(to),
  };
}

if (import.meta.main) {
  const document = readFileSync(documentPath, "utf8");
  writeFileSync(documentPath, knobTablesOf(document).replaceBy(renderKnobTables()));
}
