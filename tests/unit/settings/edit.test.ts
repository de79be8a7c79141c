/** Setting and unsetting a key changes that key and no other byte of the file; what would not fit is never written. */
import { describe, expect, test } from "bun:test";
import { chmodSync, lstatSync, readFileSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { MeshError } from "~/errors";
import { parseDocument } from "~/settings/document";
import { setInFile, unsetInFile, withoutKey, withValue } from "~/settings/edit";
import { checkDocument, readSettingsFile } from "~/settings/file";
import { knobNames, knobOf } from "~/settings/knobs";
import { tempDir } from "../../support/temp-dir";

const parse = (text: string) => parseDocument(text, "config.toml");

/** A file that a person has lived with. */
const lived = `# My own notes. Do not lose them: ä ✓\r
  # indented\r
[log]  \t# first on purpose\r
level = "info"   # was debug\r
\r
[daemon]\r
\ttcp   =   true   # for the editor\r
\ttcp_port = 0x1F90\r
# tcp_port = 9000\r
allowed_origins = [\r
  "http://localhost:3000", # the one\r
  # "http://localhost:5173",\r
]\r
\r
# the end`;

describe("setting", () => {
  test.each([
    ["a number", "daemon.tcp_port", "9000", "0x1F90", "9000"],
    ["a flag", "daemon.tcp", "false", "true   #", "false   #"],
    ["a text", "log.level", '"debug"', '"info"', '"debug"'],
  ] as const)(
    "%s that is there replaces its value and nothing else",
    async (_, name, written, before, after) => {
      expect(withValue(await parse(lived), name, written)).toBe(lived.replace(before, after));
    },
  );

  test("a list that is there replaces it, and keeps what is around it", async () => {
    const start = lived.indexOf("[\r\n");
    const end = lived.indexOf("]\r\n\r\n#") + 1;
    expect(withValue(await parse(lived), "daemon.allowed_origins", "[]")).toBe(
      `${lived.slice(0, start)}[]${lived.slice(end)}`,
    );
  });

  test.each([
    [
      "below the last key of its section, indented alike",
      "[log]\n  level = 'info' # x\n\n[api]\n",
      "[log]\n  level = 'info' # x\n  files_kept = 1\n\n[api]\n",
    ],
    ["below its empty section", "[log] # x\n[api]\n", "[log] # x\nfiles_kept = 1\n[api]\n"],
    [
      "below a section at the end without a line end",
      "[log]\nlevel = 'info'",
      "[log]\nlevel = 'info'\nfiles_kept = 1\n",
    ],
    [
      "beside its likes with dots",
      "log.level = 'info' # x\napi.streams_max = 1\n",
      "log.level = 'info' # x\nlog.files_kept = 1\napi.streams_max = 1\n",
    ],
    [
      "into an inline table",
      "log = { level = 'info' } # x\n",
      "log = { level = 'info', files_kept = 1 } # x\n",
    ],
    ["into an empty inline table", "log = {} # x\n", "log = { files_kept = 1 } # x\n"],
    [
      "in a new section at the end",
      "[api]\nstreams_max = 1\n",
      "[api]\nstreams_max = 1\n\n[log]\nfiles_kept = 1\n",
    ],
    ["in a new section after text without a line end", "# nothing", "# nothing\n\n[log]\nfiles_kept = 1\n"],
    ["with the line ends of the file", "[api]\r\n", "[api]\r\n\r\n[log]\r\nfiles_kept = 1\r\n"],
    ["in an empty file", "", "[log]\nfiles_kept = 1\n"],
    ["behind a byte order mark", "\uFEFF[log]\n", "\uFEFF[log]\nfiles_kept = 1\n"],
  ])("a new key goes %s", async (_, before, after) => {
    const text = withValue(await parse(before), "log.files_kept", "1");
    expect(text).toBe(after);
    expect(checkDocument(await parse(text), "config.toml").get("log.files_kept")?.value).toBe(1);
  });

  test("and unsetting any key, in any style, comes back to where it was", async () => {
    for (const text of [
      lived,
      "",
      "[daemon]\n[log]\n",
      "daemon.tcp = true\n",
      "log = { level = 'info' }\n",
    ]) {
      for (const name of knobNames) {
        const knob = knobOf(name);
        if ((await parse(text)).entries.some(({ path }) => path.join(".") === name)) continue;
        const written =
          knob.kind === "number"
            ? String(knob.max)
            : knob.kind === "choice"
              ? '"warn"'
              : knob.kind === "flag"
                ? "true"
                : "[]";
        const set = withValue(await parse(text), name, written);
        const unset = withoutKey(await parse(set), name) ?? "";
        // What may stay is the section that was made for it.
        const [section] = name.split(".");
        expect([
          text,
          `${text}\r\n\r\n[${section}]\r\n`,
          `${text}\n[${section}]\n`,
          `[${section}]\n`,
        ]).toContain(unset);
      }
    }
  });
});

describe("unsetting", () => {
  test.each([
    [
      "takes its line",
      "[log]\nlevel = 'info' # gone\nfiles_kept = 1 # stays\n",
      "[log]\nfiles_kept = 1 # stays\n",
    ],
    ["takes all its lines", "[log]\nlevel = '''\ninfo'''\nfiles_kept = 1\n", "[log]\nfiles_kept = 1\n"],
    [
      "leaves comments above it",
      "[log]\n# about the level\n  level = 'info'\n",
      "[log]\n# about the level\n",
    ],
    ["takes the last line without a line end", "[log]\nlevel = 'info'", "[log]\n"],
    [
      "takes the first of an inline table",
      "log = { level = 'info', files_kept = 1 }\n",
      "log = { files_kept = 1 }\n",
    ],
    [
      "takes the last of an inline table",
      "log = { files_kept = 1, level = 'info' }\n",
      "log = { files_kept = 1 }\n",
    ],
    ["takes the only one of an inline table", "log = { level = 'info' }\n", "log = {  }\n"],
    ["takes one with dots", "log.level = 'info'\nlog.files_kept = 1\n", "log.files_kept = 1\n"],
  ])("%s", async (_, before, after) => {
    const text = withoutKey(await parse(before), "log.level") ?? "";
    expect(text).toBe(after);
    expect(checkDocument(await parse(text), "config.toml").has("log.level")).toBe(false);
  });
  test("what is not there changes nothing", async () => {
    expect(withoutKey(await parse(lived), "log.files_kept")).toBeUndefined();
  });
});

describe("the file", () => {
  const fresh = () => join(tempDir(), "config.toml");

  test("is made with a heading, for its owner only", async () => {
    const path = fresh();
    const values = await setInFile(path, "daemon.tcp", false);
    expect(values.get("daemon.tcp")).toEqual({ value: false, line: 5 });
    expect(readFileSync(path, "utf8")).toMatch(
      /^# The settings of claudemesh[^\n]*\n#[^\n]*\n\n\[daemon\]\ntcp = false\n$/,
    );
    expect(statSync(path).mode & 0o777).toBe(0o600);
  });
  test("stays readable for those who could read it, and a link stays a link", async () => {
    const target = fresh();
    writeFileSync(target, "# mine\n");
    chmodSync(target, 0o644);
    const path = fresh();
    symlinkSync(target, path);
    await setInFile(path, "log.level", "warn");
    expect(lstatSync(path).isSymbolicLink()).toBe(true);
    expect(readFileSync(target, "utf8")).toBe('# mine\n\n[log]\nlevel = "warn"\n');
    expect(statSync(target).mode & 0o777).toBe(0o644);
  });
  test("is not made by unsetting", async () => {
    const path = fresh();
    expect(await unsetInFile(path, "daemon.tcp")).toBe(false);
    expect(await readSettingsFile(path)).toBeUndefined();
  });

  test.each([
    ["that is no TOML", "[daemon\n", "daemon.tcp"],
    ["with another value that does not fit", "[api]\nstreams_max = 0\n", "daemon.tcp"],
    ["with an unknown key", "[api]\nsteams = 0\n", "daemon.tcp"],
  ] as const)("%s is not written to", async (_, text, name) => {
    const path = fresh();
    writeFileSync(path, text);
    await expect(setInFile(path, name, true)).rejects.toBeInstanceOf(MeshError);
    expect(readFileSync(path, "utf8")).toBe(text);
  });
  test("is not written to when the new value contradicts another", async () => {
    const path = fresh();
    await setInFile(path, "delivery.retry_delay_s_max", 1);
    const text = readFileSync(path, "utf8");
    await expect(setInFile(path, "delivery.retry_delay_ms_min", 1001)).rejects.toThrow(
      "is above the largest",
    );
    expect(readFileSync(path, "utf8")).toBe(text);
  });
  test("is mended by setting or unsetting the very key that is wrong", async () => {
    const path = fresh();
    writeFileSync(path, "[api]\nstreams_max = 0 # oops\n");
    await setInFile(path, "api.streams_max", 3);
    expect(readFileSync(path, "utf8")).toBe("[api]\nstreams_max = 3 # oops\n");
    writeFileSync(path, "[api]\nsteams_max = 0\n");
    expect(await unsetInFile(path, "api.steams_max")).toBe(true);
    expect(readFileSync(path, "utf8")).toBe("[api]\n");
  });
  test("with several mistakes is mended by unsetting one after the other", async () => {
    const path = fresh();
    writeFileSync(path, "api.streams_max = 0\napi.nothing = {}\nlog.level = 3\n");
    await expect(setInFile(path, "daemon.tcp", true)).rejects.toMatchObject({ code: "config_invalid" });
    expect(await unsetInFile(path, "log.level")).toBe(true);
    expect(await unsetInFile(path, "api.nothing")).toBe(true);
    expect(readFileSync(path, "utf8")).toBe("api.streams_max = 0\n");
    await setInFile(path, "api.streams_max", 1);
    expect(readFileSync(path, "utf8")).toBe("api.streams_max = 1\n");
  });
  test("that others can write to is not written to", async () => {
    const path = fresh();
    writeFileSync(path, "[daemon]\n");
    chmodSync(path, 0o666);
    await expect(setInFile(path, "daemon.tcp", true)).rejects.toMatchObject({ code: "config_unsafe" });
  });
});
