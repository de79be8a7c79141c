/** docs/mocks.md: its programs run as they stand and print what they should, its scripts are scripts, its table is the table. */
import { describe, expect, test } from "bun:test";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Layout, pilotAnswers, pilotRequestNames, pilotRequests } from "~/wire/pilot";
import { command, root, spawnCli } from "../support/cli";
import { connectWhenReady } from "../support/pilot-client";
import { tempDir } from "../support/temp-dir";

const document = readFileSync(join(root, "docs/mocks.md"), "utf8");

/** The blocks of code in one language, in order. */
const blocks = (language: string): string[] =>
  [...document.matchAll(/^```(\w+)\n([\s\S]*?)^```$/gm)].flatMap(([, name, code = ""]) =>
    name === language ? [code] : [],
  );

/** A directory with the program in it, and a PATH on which `claudemesh` is what is being tested. */
function workplace(file: string, code: string): { cwd: string; env: Record<string, string> } {
  const cwd = tempDir();
  writeFileSync(join(cwd, file), code);
  const bin = join(cwd, "bin");
  mkdirSync(bin);
  const script = `#!/bin/sh\nexec ${command.map((word) => `'${word}'`).join(" ")} "$@"\n`;
  writeFileSync(join(bin, "claudemesh"), script, { mode: 0o755 });
  return {
    cwd,
    env: { PATH: `${bin}:${process.env.PATH}`, HOME: cwd, GOCACHE: join(cwd, "go"), GO111MODULE: "off" },
  };
}

const programs: { language: string; file: string; needs: string[]; run: string; prints: string[] }[] = [
  {
    language: "sh",
    file: "try.sh",
    needs: ["sh", "socat", "curl"],
    run: "sh try.sh",
    prints: ['{"ok":true,"uptime_secs":0}', '{"client_message_id":"k1","status":"queued","duplicate":false}'],
  },
  {
    language: "python",
    file: "try.py",
    needs: ["python3"],
    run: "python3 try.py",
    prints: ["0xe mock-daemon\n0x7 b'hello'\n", "carol the build is green\nbob thanks, got it\n"],
  },
  {
    language: "c",
    file: "try.c",
    needs: ["cc"],
    run: "cc -Wall -Werror -o try try.c && ./try",
    prints: ['12 {"hostname":"bob","node_id":195948557}\n', "HTTP/1.1 200 OK\n"],
  },
  {
    language: "go",
    file: "try.go",
    needs: ["go"],
    run: "go run try.go",
    prints: ["02 5000\n", "event: message\n"],
  },
];

describe.each(programs)("in $language", ({ language, file, needs, run, prints }) => {
  const missing = needs.filter((program) => Bun.which(program) === null);
  if (missing.length > 0)
    console.warn(`skipped: docs/mocks.md in ${language}, for there is no ${missing.join(", ")} here`);

  test.skipIf(missing.length > 0).each([...blocks(language).entries()])(
    "program %d prints what it should",
    (index, code) => {
      const { cwd, env } = workplace(file, code);
      const { exitCode, stdout, stderr } = Bun.spawnSync(["sh", "-c", run], { cwd, env });
      const logless = stderr.toString().replace(/^\{"time".*\n/gm, "");
      expect({ exitCode, stdout: stdout.toString(), logless }).toEqual({
        exitCode: 0,
        stdout: prints[index] ?? "nothing that is known here",
        logless: "",
      });
    },
    60_000,
  );
});

test("the table has a row for each command, with its numbers", () => {
  const rows = [...document.matchAll(/^\| `([a-z_.]+)` \| `(..) → (..)` \| (.*?) \|/gm)];
  const shown = rows.map(([, name, request, answer, payload = ""]): unknown[] => [
    ...[name, request, answer],
    payload.match(/`..`/g) ?? [],
  ]);
  const hex = (byte: number): string => byte.toString(16).toUpperCase().padStart(2, "0");
  const wanted = pilotRequestNames.map((name): unknown[] => {
    const layout: Layout = pilotRequests[name];
    const answer = pilotAnswers[pilotRequests[name].answer];
    const subs = (layout.sub ?? []).map((byte) => `\`${hex(byte)}\``);
    return [name, hex(layout.command), hex(answer.command), subs];
  });
  expect(shown).toEqual(wanted);
});

test.each([...blocks("json").entries()])("script %d is one", async (_, code) => {
  const dir = tempDir();
  writeFileSync(join(dir, "script.json"), code);
  const { mock } = JSON.parse(code);
  const socket = join(dir, "s");
  spawnCli(["mock", mock, "--socket", socket, "--script", join(dir, "script.json")]);
  expect(await connectWhenReady(socket)).toBeDefined();
});
