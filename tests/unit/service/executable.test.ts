/** Which path a service starts the daemon by, in trees as package managers lay them out. */
import { expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { stableExecutable } from "~/service/executable";
import { cleanup } from "../../support/cleanup";
import { tempDir } from "../../support/temp-dir";

function file(path: string): string {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, "");
  return path;
}

function link(path: string, to: string): string {
  mkdirSync(dirname(path), { recursive: true });
  symlinkSync(to, path);
  return path;
}

/** As `brew install` leaves it. */
function homebrew(prefix: string) {
  const execPath = file(join(prefix, "Cellar/claudemesh/1.2.3/bin/claudemesh"));
  link(join(prefix, "opt/claudemesh"), "../Cellar/claudemesh/1.2.3");
  const linked = join(prefix, "bin/claudemesh");
  return { execPath, linked, link: () => link(linked, "../Cellar/claudemesh/1.2.3/bin/claudemesh") };
}

test("Homebrew: the link in bin, whatever PATH says", () => {
  const brew = homebrew(tempDir());
  brew.link();
  const other = link(join(tempDir(), "claudemesh"), brew.execPath);
  expect(stableExecutable({ execPath: brew.execPath, pathVariable: dirname(other) })).toBe(brew.linked);
});

test("Homebrew, not linked: the way through opt", () => {
  const prefix = tempDir();
  const { execPath } = homebrew(prefix);
  expect(stableExecutable({ execPath, pathVariable: "" })).toBe(
    join(prefix, "opt/claudemesh/bin/claudemesh"),
  );
});

test("Homebrew, linked to another version: not that one", () => {
  const prefix = tempDir();
  const { execPath, linked } = homebrew(prefix);
  link(linked, file(join(prefix, "Cellar/claudemesh/1.2.4/bin/claudemesh")));
  expect(stableExecutable({ execPath, pathVariable: "" })).toBe(
    join(prefix, "opt/claudemesh/bin/claudemesh"),
  );
});

test("Homebrew, a version that nothing leads to: refused, with what to type", () => {
  const execPath = file(join(tempDir(), "Cellar/claudemesh/1.2.2/bin/claudemesh"));
  expect(() => stableExecutable({ execPath, pathVariable: dirname(execPath) })).toThrow(
    expect.objectContaining({ code: "service_failed", hint: "brew link claudemesh" }) as Error,
  );
});

test("otherwise the first link on PATH that leads to what runs", () => {
  const dir = tempDir();
  const execPath = file(join(dir, "store/0abc-claudemesh-1.2.3/bin/claudemesh"));
  const stranger = file(join(dir, "elsewhere/claudemesh"));
  const profile = link(join(dir, "profile/bin/claudemesh"), execPath);
  const second = link(join(dir, "second/claudemesh"), execPath);
  const search = [dirname(stranger), "relative", "", "/nowhere", dirname(profile), dirname(second)].join(":");
  expect(stableExecutable({ execPath, pathVariable: search })).toBe(profile);
});

test("a link that goes with the session counts for nothing", () => {
  const session = mkdtempSync("/tmp/cm-");
  cleanup(() => rmSync(session, { recursive: true }));
  link(join(session, "claudemesh"), "/bin/sh");
  expect(stableExecutable({ execPath: "/bin/sh", pathVariable: session })).toBe(realpathSync("/bin/sh"));
});

test("without any link, the file itself, links in its own path resolved", () => {
  const dir = tempDir();
  const execPath = file(join(dir, "bin/claudemesh"));
  const through = link(join(dir, "link"), "bin");
  expect(stableExecutable({ execPath, pathVariable: dirname(execPath) })).toBe(execPath);
  expect(stableExecutable({ execPath: join(through, "claudemesh"), pathVariable: undefined })).toBe(execPath);
});
