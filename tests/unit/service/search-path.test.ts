/** Where a service looks for programs, of what the PATH of the person says who installs it. */
import { expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { lastingSearchPath } from "~/service/search-path";
import { cleanup } from "../../support/cleanup";

const cases: [what: string, path: string | undefined, lasting: string][] = [
  ["everybody's", "/usr/local/bin:/usr/bin:/bin", "/usr/local/bin:/usr/bin:/bin"],
  ["one's own before it", "/home/al/.local/bin:/usr/bin", "/home/al/.local/bin:/usr/bin"],
  ["the same twice", "/usr/bin:/bin:/usr/bin", "/usr/bin:/bin"],
  ["the current directory, said in three ways", ":.:/usr/bin:./bin:", "/usr/bin"],
  ["one that no shell expands", "~/bin:/bin", "/bin"],
  ["ones that are not there yet", "/nowhere/bin:/bin", "/nowhere/bin:/bin"],
  ["some that go with the session", "/run/user/1000/x:/tmp/yarn--1:/private/var/folders/a/T/b:/bin", "/bin"],
  [
    "NixOS, where /run has what lasts",
    "/run/wrappers/bin:/run/current-system/sw/bin",
    "/run/wrappers/bin:/run/current-system/sw/bin",
  ],
  ["names with everything in them", "/a b/$x/%h/\"q':/bin", "/a b/$x/%h/\"q':/bin"],
  ["an empty one", "", ""],
  ["none", undefined, ""],
];
test.each(cases)("%s", (_, path, lasting) => {
  expect(lastingSearchPath(path)).toBe(lasting);
});

test("a link that was made for one shell stands for what it leads to, if that lasts", () => {
  const session = mkdtempSync("/tmp/cm-");
  cleanup(() => rmSync(session, { recursive: true }));
  symlinkSync("/usr/bin", join(session, "lasting"));
  mkdirSync(join(session, "own"));
  symlinkSync(join(session, "own"), join(session, "fleeting"));
  symlinkSync("/nowhere", join(session, "broken"));
  const path = ["lasting", "fleeting", "broken"].map((name) => join(session, name)).join(":");
  expect(lastingSearchPath(`${path}:/bin`)).toBe("/usr/bin:/bin");
});
