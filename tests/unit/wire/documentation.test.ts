/** docs/api.md names every route of the local API, and every field that it takes or answers. */
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { openApiDocument } from "~/daemon/ipc/openapi";
import { routes } from "~/wire/ipc";

const document = readFileSync(join(import.meta.dir, "../../../docs/api.md"), "utf8");
const [, section = ""] = /^## Every route\n([\s\S]*?)^## /m.exec(document) ?? [];
const rows = section.split("\n").filter((line) => line.startsWith("| `"));
/** What is said below the table, of shapes that several routes have. */
const shapes = section
  .split("\n")
  .filter((line) => !line.startsWith("|"))
  .join("\n");
const operations = Object.entries(openApiDocument("0").paths as Record<string, Record<string, unknown>>);

/** As the document writes it: an id in the path is ID. */
const nameOf = (method: string, path: string): string =>
  `${method.toUpperCase()} ${path.replace(/:\w+|\{\w+\}/, "ID")}`;

/** The names of all properties of a JSON schema, however deep. */
function fieldsOf(schema: unknown): string[] {
  if (Array.isArray(schema)) return schema.flatMap(fieldsOf);
  if (typeof schema !== "object" || schema === null) return [];
  return Object.entries(schema).flatMap(([key, value]) =>
    key === "properties"
      ? [...Object.keys(value), ...Object.values(value).flatMap(fieldsOf)]
      : fieldsOf(value),
  );
}

/** Answers that are errors (`default`, 409) have a section of their own. */
function namesIn(operation: unknown): string[] {
  const { parameters, requestBody, responses } = operation as {
    parameters: { name: string; in: string }[];
    requestBody?: unknown;
    responses: Record<string, unknown>;
  };
  const given = parameters.filter((parameter) => parameter.in === "query").map(({ name }) => name);
  return [
    ...new Set([...given, ...fieldsOf(requestBody), ...fieldsOf([responses["200"], responses["202"]])]),
  ];
}

test("the table has a row for each route, and no other", () => {
  const named = rows.map((row) => /^\| `([^`]+)`/.exec(row)?.[1] ?? row);
  expect(named.sort()).toEqual(
    Object.values(routes)
      .map(({ method, path }) => nameOf(method, path))
      .sort(),
  );
});

describe.each(
  operations.flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => [nameOf(method, path), operation] as const),
  ),
)("%s", (name, operation) => {
  test("every field of it is named", () => {
    const row = rows.find((line) => line.startsWith(`| \`${name}\``)) ?? "";
    // What is the same as the row before says so, and is in that row.
    const text = `${/the same/.test(row) ? rows[rows.indexOf(row) - 1] : row}\n${shapes}`;
    const missing = namesIn(operation).filter((field) => {
      const isOfEveryAnswer = field === "ephemeral" || field === "until";
      return !new RegExp(`\\b${field}\\b`).test(isOfEveryAnswer ? document : text);
    });
    expect(missing).toEqual([]);
  });
});
