/** The log of a daemon in the background, and what becomes of a daemon whose log nobody takes. */
import { expect, test } from "bun:test";
import { existsSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { cleanup } from "../support/cleanup";
import { command } from "../support/cli";
import { filesBelow } from "../support/disguises";
import { newMember } from "../support/mesh";
import { tempDir } from "../support/temp-dir";
import { waitFor } from "../support/wait-for";

test("is rotated while it is written and followed: whoever follows gets what the files hold", async () => {
  const alice = newMember("alice");
  writeFileSync(
    join(alice.configDir, "config.toml"),
    '[log]\nlevel = "debug"\nfile_bytes_max = 65536\nfiles_kept = 50\n',
    { mode: 0o600 },
  );
  cleanup(async () => void (await alice.cli(["daemon", "down"])));
  await alice.run(["daemon", "up", "--no-tcp"]);
  const follower = alice.spawn(["daemon", "logs", "-f", "-n", "100000", "--json"]);
  await follower.waitForOutput(/daemon_started/);
  const log = join(alice.daemonDir, "daemon.log");
  while (!existsSync(`${log}.3`))
    await Promise.all(Array.from({ length: 50 }, () => alice.request("/v1/version")));
  await alice.run(["daemon", "down"]);
  const files = [3, 2, 1].map((number) => `${log}.${number}`).filter(existsSync);
  const older = filesBelow(alice.daemonDir).filter((path) => /\.log\.([4-9]|\d\d)$/.test(path));
  expect(older).toEqual([]);
  const held = [...files, log].map((path) => readFileSync(path, "utf8")).join("");
  expect(held).toContain("daemon_stopped");
  await waitFor(() => follower.stdout().length >= held.length, { what: "the follower to have it all" });
  const { exitCode, stdout } = await follower.stop("SIGINT");
  expect(exitCode).toBe(130);
  expect(stdout.split("\n")).toEqual(held.split("\n"));
  for (const path of [...files, log]) expect(statSync(path).mode & 0o777).toBe(0o600);
  const last = await alice.run(["daemon", "logs", "-n", "1"]);
  expect(last.stdout).toMatch(/ {2}info {3}daemon_stopped/);
});

test.each([
  ["has gone away", "| true", /EPIPE/],
  ["does not read", "| sleep 20", /wait to be read/],
])(
  "whose reader %s stops nothing, and health says so",
  async (_name, reader, problem) => {
    const alice = newMember("alice");
    const words = [...command, "daemon", "up", "--foreground", "--no-tcp"]
      .map((word) => `'${word}'`)
      .join(" ");
    const shell = Bun.spawn(["sh", "-c", `${words} 2>&1 >/dev/null ${reader}`], {
      cwd: tempDir(),
      env: { ...alice.env, PATH: process.env.PATH ?? "" },
      stdio: ["ignore", "ignore", "ignore"],
      detached: true,
    });
    cleanup(async () => {
      await alice.cli(["daemon", "down"]);
      // The reader is of the same group.
      if (shell.exitCode === null) process.kill(-shell.pid, "SIGKILL");
      await shell.exited;
    });
    await waitFor(() => alice.health(), { what: "the daemon to serve" });
    await waitFor(
      async () => {
        // Each is refused, which is logged.
        await Promise.all(Array.from({ length: 100 }, () => alice.request("/v1/version?token=x")));
        const { problems } = await alice.health();
        return problems.some(({ code, message }) => code === "log_not_written" && problem.test(message));
      },
      { what: "health to say so", timeoutMs: 20_000 },
    );
  },
  30_000,
);
