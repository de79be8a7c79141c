/** What is wrong with a `config.toml`, told with its place; and which files are not read at all. */
import { describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { MeshError } from "~/errors";
import { readSettingsFile } from "~/settings/file";
import { settingsFileBytesMax } from "~/wire/limits";
import { tempDir } from "../../support/temp-dir";

function write(content: string | Uint8Array, mode = 0o600): string {
  const path = join(tempDir(), "config.toml");
  writeFileSync(path, content);
  chmodSync(path, mode);
  return path;
}

const valuesOf = async (text: string) => {
  const values = await readSettingsFile(write(text));
  return Object.fromEntries([...(values ?? [])].map(([name, { value, line }]) => [name, [value, line]]));
};

describe("is read", () => {
  const both = { "daemon.tcp": [false, 2], "daemon.tcp_port": [0, 3] };
  test.each([
    ["under a header", "[daemon]\ntcp = false\ntcp_port = 0\n", both],
    ["with dots", "\ndaemon.tcp = false\ndaemon.tcp_port = 0\n", both],
    ["with quoted keys", "['daemon']\n\"tcp\" = false\ntcp_port=0", both],
    ["with carriage returns", "[daemon]\r\ntcp = false\r\ntcp_port = 0\r\n", both],
    ["behind a byte order mark", "\uFEFF[daemon]\ntcp = false\ntcp_port = 0\n", both],
    ["among comments", "[daemon] # here\ntcp = false# off\ntcp_port = +0 # any\n", both],
    [
      "in an inline table",
      "\ndaemon = { tcp = false, tcp_port = 0 }",
      { "daemon.tcp": [false, 2], "daemon.tcp_port": [0, 2] },
    ],
    ["with nothing in it", "", {}],
    ["with nothing but comments and a section", "# nothing\n[daemon]\n", {}],
    ["with an empty inline table", "daemon = {}\n", {}],
  ])("%s", async (_, text, values) => {
    expect(await valuesOf(text)).toEqual(values);
  });

  test("by others than its owner, which does no harm", async () => {
    expect(await readSettingsFile(write("[daemon]\n", 0o644))).toEqual(new Map());
  });
  test("through a symbolic link", async () => {
    const link = join(tempDir(), "config.toml");
    symlinkSync(write("[daemon]\ntcp = false\n"), link);
    expect((await readSettingsFile(link))?.get("daemon.tcp")).toEqual({ value: false, line: 2 });
  });
  test("and a file that is not there is no failure", async () => {
    expect(await readSettingsFile(join(tempDir(), "config.toml"))).toBeUndefined();
  });
});

describe("is refused with its place:", () => {
  const showHint = "claudemesh config show --defaults";
  test.each<[what: string, text: string, place: [number, number], says: string, hint: string]>([
    [
      "a value that is out of bounds",
      "\n[api]\n  streams_max = 0 # none\n",
      [3, 17],
      "from 1 to 4096 (streams) expected, found 0",
      "api.streams_max",
    ],
    [
      "a value of another type",
      "daemon = { tcp = 1 }",
      [1, 18],
      "daemon.tcp: true or false expected, found 1",
      "daemon.tcp",
    ],
    [
      "a value over several lines",
      "[link]\nrequired_features = [\n  1,\n]\n",
      [2, 21],
      "found [ 1, ]",
      "config unset",
    ],
    [
      "a key that is misspelt",
      "[daemon]\ntpc = true\n",
      [2, 1],
      "daemon.tpc: there is no such key",
      "Did you mean daemon.tcp?",
    ],
    [
      "a key in a wrong section",
      "[daemon]\nretention_days = 3\n",
      [2, 1],
      "daemon.retention_days",
      "Did you mean storage.retention_days?",
    ],
    [
      "a key in no section",
      "public_health = true\n",
      [1, 1],
      "public_health: there is no such key",
      "Did you mean daemon.public_health?",
    ],
    ["a key like no other", "[daemon]\nquux_and_more = 1\n", [2, 1], "there is no such key", showHint],
    [
      "a section that is misspelt",
      "[deamon]\ntcp = true\n",
      [1, 2],
      "[deamon]: there is no such section",
      "Did you mean [daemon]?",
    ],
    [
      "an empty table as a value",
      "daemon.tcp = {}\n",
      [1, 14],
      "true or false expected, found {}",
      "config unset",
    ],
    ["an empty table like no other", "[daemon]\nzebra = {}\n", [2, 1], "there is no such key", showHint],
    ["a section like no other", "[zebra]\n", [1, 2], "there are [daemon], [api]", showHint],
    [
      "a section within a section",
      "[daemon.more]\nx = 1\n",
      [1, 2],
      "[daemon.more]: there is no such section",
      "Did you mean [daemon]?",
    ],
    [
      "a section that should be a value",
      "[daemon.tcp]\n",
      [1, 2],
      "daemon.tcp is no section: true or false expected",
      showHint,
    ],
    [
      "a value that should be a section",
      "daemon = 3\n",
      [1, 1],
      "write [daemon] and its keys below it",
      showHint,
    ],
    ["a list of sections", "[[daemon]]\ntcp = true\n", [1, 3], "[[daemon]]: a list of sections", showHint],
    [
      "dots within quotes",
      '"daemon.tcp" = true\n',
      [1, 1],
      '"daemon.tcp": there is no such key',
      "Did you mean daemon.tcp?",
    ],
    ["a key too deep", "daemon.tcp.port = 1\n", [1, 1], "daemon.tcp.port: there is no such key", showHint],
    [
      "a smallest delay above the largest",
      "[delivery]\nretry_delay_ms_min = 2000\nretry_delay_s_max = 1\n",
      [3, 1],
      "2000 ms, is above the largest, 1 s",
      "retry_delay_s_max",
    ],
    [
      "one above a largest that is the default",
      "[delivery]\n\nretry_delay_s_max = 1\nretry_delay_ms_min = 1001",
      [4, 1],
      "1001 ms",
      "lower",
    ],
    [
      "a key given twice",
      "[daemon]\ntcp = true\ntcp = false\n",
      [3, 1],
      "multiple times is invalid: tcp = false",
      "does not write",
    ],
    ["no value", "[daemon]\ntcp =\n", [3, 1], "is not TOML", "does not write"],
    [
      "a bare word",
      "[daemon]\n  tcp = yes # on\n",
      [2, 9],
      "is not TOML: Unexpected character: tcp = yes # on",
      "quotes",
    ],
    ["no TOML at all", "{}", [1, 1], "is not TOML", "does not write"],
  ])("%s", async (_, text, [line, column], says, hint) => {
    const path = write(text);
    const error = await readSettingsFile(path).catch((thrown: unknown) => thrown);
    if (!(error instanceof MeshError)) throw new Error(`it was taken: ${Bun.inspect(error)}`);
    expect(error.message).toStartWith(`${path}:${line}:${column}`);
    expect(error.message).toContain(says);
    expect(error.hint).toContain(hint);
    expect(error.details).toMatchObject({ file: path, line, column });
    expect(error.code).toBe("config_invalid");
  });

  test("the first of several, with the lines of the others", async () => {
    const path = write("[daemon]\ntcp = 1\n[nothing]\nx = 1\n[api]\nstreams_max = 0\n");
    await expect(readSettingsFile(path)).rejects.toThrow(/:2:7: daemon\.tcp: .*; see also line 3, 6$/);
  });
});

describe("is not read at all:", () => {
  const rejection = (path: string) => readSettingsFile(path).catch((thrown: unknown) => thrown);

  test.each([0o620, 0o602, 0o666, 0o777])("one with mode %o, which others can write to", async (mode) => {
    const path = write("[daemon]\n", mode);
    expect(await rejection(path)).toMatchObject({ code: "config_unsafe", hint: `chmod go-w '${path}'` });
  });
  test("one that is not UTF-8", async () => {
    const path = write(new Uint8Array([0x23, 0xe9, 0x0a]));
    expect(await rejection(path)).toMatchObject({ code: "config_invalid", message: `${path} is not UTF-8` });
  });
  test("one that is too large, and by one byte", async () => {
    const path = write("#".repeat(settingsFileBytesMax + 1));
    expect(await rejection(path)).toMatchObject({
      code: "config_invalid",
      message: expect.stringContaining(`at most ${settingsFileBytesMax}`),
    });
    expect(await readSettingsFile(write("#".repeat(settingsFileBytesMax)))).toEqual(new Map());
  });
  test("one that is a directory", async () => {
    const path = join(tempDir(), "config.toml");
    mkdirSync(path);
    expect(await rejection(path)).toMatchObject({
      code: "storage_failed",
      message: `cannot read ${path}: EISDIR`,
    });
  });
  test("one that is a device or a pipe, which could keep the daemon waiting for ever", async () => {
    const path = join(tempDir(), "config.toml");
    symlinkSync("/dev/null", path);
    expect(await rejection(path)).toMatchObject({
      code: "storage_failed",
      message: `cannot read ${path}: it is no regular file`,
    });
  });
  test("one that nests without end", async () => {
    const path = write(`[daemon]\ntcp = ${"[".repeat(60_000)}`);
    expect(await rejection(path)).toMatchObject({ code: "config_invalid" });
    const closed = write(`[daemon]\ntcp = ${"[".repeat(30_000)}${"]".repeat(30_000)}`);
    expect(await rejection(closed)).toMatchObject({ code: "config_invalid" });
  });
});
