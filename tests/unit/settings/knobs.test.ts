/** Every knob: its default fits, its bounds hold to the last number, and what does not fit is refused with what would. */
import { describe, expect, test } from "bun:test";
import { MeshError } from "~/errors";
import { parseDocument } from "~/settings/document";
import { renderValue } from "~/settings/edit";
import { checkDocument } from "~/settings/file";
import {
  defaultSettings,
  expectationOf,
  fits,
  type Knob,
  type KnobName,
  type KnobValue,
  knobNames,
  knobOf,
  sections,
} from "~/settings/knobs";

/** `config.toml` with one key in it, whose value is written like this. */
async function read(name: KnobName, written: string): Promise<KnobValue | MeshError> {
  const [section, key] = name.split(".");
  // Beside the smallest delay stands the largest, so that none of its values contradicts the default.
  const text =
    name === "delivery.retry_delay_ms_min"
      ? `[delivery]\nretry_delay_ms_min = ${written}\nretry_delay_s_max = 3600\n`
      : `[${section}]\n${key} = ${written}\n`;
  try {
    return checkDocument(await parseDocument(text, "config.toml"), "config.toml").get(name)?.value ?? null;
  } catch (error) {
    if (error instanceof MeshError) return error;
    throw error;
  }
}

async function refused(name: KnobName, written: string): Promise<void> {
  const error = await read(name, written);
  if (!(error instanceof MeshError)) throw new Error(`it was taken as ${JSON.stringify(error)}`);
  const expected = expectationOf(knobOf(name));
  expect(error.message).toStartWith("config.toml:2:");
  expect(error.message).toEndWith(`: ${name}: ${expected} expected, found ${written}`);
  expect(error.hint).toContain(`claudemesh config unset ${name}`);
  expect(error.code).toBe("config_invalid");
  expect(error.details).toMatchObject({ file: "config.toml", line: 2, key: name, expected });
}

/** Written values that the knob takes, and such as it does not. */
function samples(knob: Knob): { good: [string, KnobValue][]; bad: string[] } {
  switch (knob.kind) {
    case "flag":
      return {
        good: [
          ["true", true],
          ["false", false],
        ],
        bad: ["1", '"true"', "[true]", "1.0", "1979-05-27"],
      };
    case "number": {
      const { min, max } = knob;
      return {
        good: [
          [String(min), min],
          [String(max), max],
          [`0x${max.toString(16)}`, max],
        ],
        bad: [
          String(min - 1),
          String(max + 1),
          `${max}.0`,
          `"${max}"`,
          "true",
          "inf",
          "nan",
          "99999999999999999999",
        ],
      };
    }
    case "choice":
      return {
        good: knob.options.map((option) => [`'${option}'`, option]),
        bad: ['"never"', '""', `"${knob.options[0]?.toUpperCase()}"`, "1", "[]"],
      };
    case "list": {
      const entry = knob.entry.accepts("members") ? "members" : "http://localhost:3000";
      const many = (count: number) => Array.from({ length: count }, () => entry);
      return {
        good: [
          ["[]", []],
          [`["${entry}"]`, [entry]],
          [renderValue(many(knob.entriesMax)), many(knob.entriesMax)],
        ],
        bad: [`"${entry}"`, "[1]", '[""]', `["${entry}", "Not One"]`, `[["${entry}"]]`, "{}"],
      };
    }
  }
}

describe.each(knobNames)("%s", (name) => {
  const knob = knobOf(name);
  const { good, bad } = samples(knob);

  test("has a default that fits, and says what it does", () => {
    expect(defaultSettings[name]).toEqual(knob.default as never);
    if (knob.default !== null) expect(fits(knob, knob.default)).toBe(true);
    expect(knob.about).toMatch(/^[a-z].{10,}[^.]$/s);
    expect(name).toMatch(/^[a-z]+\.[a-z][a-z_]*$/);
  });

  test("takes what fits", async () => {
    for (const [written, value] of good) expect(await read(name, written)).toEqual(value as never);
  });

  test.each(bad.filter((written) => written !== "{}"))(
    "refuses %s and says what will do",
    async (written) => {
      await refused(name, written);
    },
  );

  test("survives being written and read again", async () => {
    for (const [, value] of good) {
      if (value !== null) expect(await read(name, renderValue(value))).toEqual(value as never);
    }
  });
});

test("a list that is too long is refused", async () => {
  const error = await read(
    "link.required_features",
    renderValue(Array.from({ length: 65 }, () => "members")),
  );
  expect(error).toMatchObject({
    code: "config_invalid",
    message: expect.stringContaining("at most 64 texts"),
  });
});

describe("an origin", () => {
  const accepts = (text: string) => fits(knobOf("daemon.allowed_origins"), [text]);
  test.each(["http://localhost:3000", "https://example.org", "http://[::1]:5173", "http://127.0.0.1"])(
    "can be %s",
    (text) => expect(accepts(text)).toBe(true),
  );
  test.each([
    "null",
    "*",
    "localhost:3000",
    "http://localhost:3000/",
    "http://localhost:80",
    "http://localhost:99999",
    "http://Localhost",
    "http://user@localhost",
    "ftp://localhost",
    "file:///etc",
    "",
  ])("cannot be %p", (text) => expect(accepts(text)).toBe(false));
});

test("every knob is in a section, and every section has knobs", () => {
  expect(sections).toEqual(["daemon", "api", "delivery", "storage", "log", "link"]);
});
