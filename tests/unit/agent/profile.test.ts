/** Profiles: those that are built in, and a person's own. */
import { expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { builtInProfiles, commandWith, loadProfile, parseProfile, profileFor } from "~/agent/profile";
import { MeshError } from "~/errors";
import { profileFileBytesMax } from "~/wire/limits";
import { tempDir } from "../../support/temp-dir";

const codeOf = (action: () => unknown): string => {
  try {
    action();
    return "fine";
  } catch (error) {
    return error instanceof MeshError ? `${error.code}: ${error.message}` : String(error);
  }
};

function withProfile(name: string, text: string | Uint8Array): string {
  const dir = tempDir();
  mkdirSync(join(dir, "profiles"));
  writeFileSync(join(dir, "profiles", `${name}.toml`), text);
  return dir;
}

test("those that are built in are there", () => {
  expect(builtInProfiles).toEqual(["generic", "claude", "codex", "kiro"]);
  for (const name of builtInProfiles) expect(loadProfile(name, "/nonexistent").name).toBe(name);
});

test("one's own goes before one that is built in", () => {
  const own = `
lines = 3
idle = ['^ready\\?']
working = ['busy']
exhausted = ["no more room"]
paste = false
settle_ms = 100
drop = ['^--']

interrupts = 2
questions = ['^y/n']
working_titles = ['^\\*']
args = ["--plain"]
env = { NO_COLOR = "1" }

[[dialogs]]
when = 'continue\\?'
keys = "y\\r"

[[dialogs]]
when = 'trust'
choose = '^yes'
`;
  for (const name of ["mine", "claude"]) {
    const profile = loadProfile(name, withProfile(name, own));
    expect(profile).toMatchObject({
      name,
      lines: 3,
      paste: false,
      settle_ms: 100,
      exhausted: ["no more room"],
      interrupts: 2,
      args: ["--plain"],
      env: { NO_COLOR: "1" },
    });
    expect(profile.idle[0]?.test("READY? ")).toBe(true);
    expect(profile.dialogs).toEqual([
      { when: expect.any(RegExp), keys: "y\r" },
      { when: expect.any(RegExp), choose: expect.any(RegExp) },
    ]);
  }
});

const programs: [program: string, profile: string][] = [
  ["claude", "claude"],
  ["/usr/local/bin/codex", "codex"],
  ["kiro-cli", "kiro"],
  ["bash", "generic"],
  ["/bin/some thing", "generic"],
  ["constructor", "generic"],
  ["../../etc/passwd", "generic"],
];
test.each(programs)("the profile for %s is %s where none is named", (program, profile) => {
  expect(profileFor(program, "/nonexistent").name).toBe(profile);
});

test("the arguments of a profile go first, where the program is called as it is", () => {
  const codex = loadProfile("codex", "/nonexistent");
  expect(codex.args.length).toBeGreaterThan(0);
  expect(commandWith(codex, ["/opt/codex", "-m", "x"])).toEqual(["/opt/codex", ...codex.args, "-m", "x"]);
  expect(commandWith(codex, ["node", "codex.js"])).toEqual(["node", "codex.js"]);
  const kiro = { ...loadProfile("kiro", "/nonexistent"), args: ["--plain"] };
  expect(commandWith(kiro, ["kiro-cli", "chat"])).toEqual(["kiro-cli", "--plain", "chat"]);
});

test("a program of one's own profile's name", () => {
  expect(profileFor("/opt/aider", withProfile("aider", "idle = ['>']")).name).toBe("aider");
});

const bad: [what: string, text: string | Uint8Array, said: RegExp][] = [
  ["no TOML", "idle = [", /^config_invalid: .*mine\.toml is not a profile/],
  ["nothing in it", "", /^config_invalid: .*idle/],
  ["no regular expression", "idle = ['[']", /^config_invalid: .*not a regular expression/],
  ["a key that does not exist", "idle = ['x']\nworks = ['y']", /^config_invalid: .*works/],
  ["a number out of range", "idle = ['x']\nlines = 0", /^config_invalid: .*lines/],
  [
    "a variable of no name",
    "idle = ['x']\nenv = { 'A=B' = 'c' }",
    /^config_invalid: .*not the name of a variable/,
  ],
  ["a dialog that nothing answers", "idle = ['x']\ndialogs = [{ when = 'y' }]", /^config_invalid: .*dialogs/],
  ["no UTF-8", Uint8Array.of(0xff, 0xfe), /^config_invalid: .*UTF-8/],
  ["too much", `# ${"x".repeat(profileFileBytesMax)}`, /^config_invalid: .*at most/],
];
test.each(bad)("a file with %s", (_, text, said) => {
  expect(codeOf(() => loadProfile("mine", withProfile("mine", text)))).toMatch(said);
});

test("a name that is none, and one that there is no profile for", () => {
  for (const name of ["../x", "", "a b", "nothing"]) {
    expect(codeOf(() => loadProfile(name, "/nonexistent"))).toMatch(/^usage: there is no profile/);
  }
  expect(codeOf(() => loadProfile("cluade", "/nonexistent"))).toBe('usage: there is no profile "cluade"');
});

test("a directory in its place", () => {
  const dir = tempDir();
  mkdirSync(join(dir, "profiles", "mine.toml"), { recursive: true });
  expect(codeOf(() => loadProfile("mine", dir))).toMatch(/^storage_failed: cannot read .* \(EISDIR\)/);
});

test("what is left out has its default", () => {
  expect(parseProfile("idle = ['x']", "x")).toMatchObject({
    lines: 12,
    paste: true,
    idle_at_cursor: false,
    working: [],
    dialogs: [],
    args: [],
    env: {},
    questions: [],
    working_titles: [],
    interrupts: 1,
    allowed_tools: [],
  });
});
