/** docs/configuration.md says of every knob what the code says, and its examples are taken. */
import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { parseDocument } from "~/settings/document";
import { checkDocument } from "~/settings/file";
import { knobNames } from "~/settings/knobs";
import { documentPath, knobTablesOf, renderKnobTables } from "./knob-table";

const document = readFileSync(documentPath, "utf8");

test("the table is the one that bun tests/unit/settings/knob-table.ts writes", () => {
  expect(knobTablesOf(document).tables).toBe(renderKnobTables());
});

test("every knob has a row", () => {
  for (const name of knobNames) {
    const [section, key] = name.split(".");
    expect(knobTablesOf(document).tables).toMatch(
      new RegExp(`### \`\\[${section}\\]\`\\n(?:(?!###)[\\s\\S])*\\| \`${key}\` \\|`),
    );
  }
});

test("every example of the file fits", async () => {
  const examples = [...document.matchAll(/^```toml\n([\s\S]*?)^```$/gm)].map(([, text = ""]) => text);
  expect(examples.length).toBeGreaterThan(0);
  for (const text of examples) {
    expect(checkDocument(await parseDocument(text, "example"), "example").size).toBeGreaterThan(0);
  }
});
