/** A daemon says which process it is; whether that is so is looked at before anything is ended. */
import { describe, expect, test } from "bun:test";
import { chmodSync, chownSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { daemonDown } from "~/cli/daemon/down";
import { daemonRestart } from "~/cli/daemon/restart";
import { serviceTarget } from "~/cli/daemon/service-target";
import { processStart, writeRecord } from "~/daemon/holder";
import { MeshError } from "~/errors";
import { daemonPaths } from "~/wire/paths";
import { cleanup } from "../../support/cleanup";
import { fakeDaemon, json } from "../client/fake-daemon";
import { type CapturedHost, capturedHost } from "./captured-host";

/** Somebody else's process, and a daemon that takes its id for its own. */
function bystander(): { host: CapturedHost; pid: number; isAlive: () => boolean } {
  const child = Bun.spawn(["sleep", "60"]);
  cleanup(() => child.kill("SIGKILL"));
  const host = capturedHost({ json: true });
  mkdirSync(dirname(host.socketPath), { recursive: true });
  const health = {
    ok: true,
    pid: child.pid,
    uptime_s: 1,
    meshes: {},
    outbox: { counts: { pending: 0, inflight: 0, done: 0, dead: 0, aborted: 0 } },
    inbox: { unread: 0 },
    problems: [],
    managed_by: null,
  };
  fakeDaemon(() => json(health), host.socketPath);
  return { host, pid: child.pid, isAlive: () => child.exitCode === null && child.signalCode === null };
}

/** A record as a daemon writes it that is another process. */
function recordFor(host: CapturedHost, change: Record<string, unknown>): void {
  const paths = daemonPaths(host.paths.daemonDir);
  writeRecord(paths, "2026-01-01T00:00:00.000Z", []);
  const record: Record<string, unknown> = JSON.parse(readFileSync(paths.record, "utf8"));
  writeFileSync(paths.record, JSON.stringify({ ...record, ...change }));
}

async function failureOf(promise: Promise<unknown>): Promise<MeshError> {
  const outcome = await promise.then(
    () => undefined,
    (error: unknown) => error,
  );
  if (outcome instanceof MeshError) return outcome;
  throw new Error(`no MeshError but ${Bun.inspect(outcome)}`);
}

describe("a process that has the id of a daemon in another container", () => {
  test.each([
    ["down", daemonDown, ["--timeout", "2"]],
    ["restart", daemonRestart, []],
  ] as const)("is not ended by daemon %s", async (_name, command, argv) => {
    const { host, pid, isAlive } = bystander();
    recordFor(host, { pid, process_start: "another-boot/1" });
    const error = await failureOf(command.execute(argv, host));
    expect(error).toMatchObject({ code: "daemon_unreachable", details: { pid } });
    expect(error.hint).toStartWith("Nothing was ended");
    expect(isAlive()).toBe(true);
  });

  test.skipIf(process.getuid?.() !== 0)(
    "is not ended by root for a user who could not end it (as root)",
    async () => {
      const { host, pid, isAlive } = bystander();
      const nobody = 65_534;
      // What a user may well write who knows the process.
      recordFor(host, { pid, process_start: processStart(pid) });
      for (const path of [host.paths.configDir, host.paths.daemonDir]) chownSync(path, nobody, nobody);
      chmodSync(host.socketPath, 0o600);
      const { daemon } = await serviceTarget(
        { ...host, env: { ...host.env, PATH: process.env.PATH } },
        { system: true, user: "nobody", command: "daemon uninstall-service", purpose: "remove" },
      );
      expect(await daemon.pid()).toBe(pid);
      const error = await failureOf(daemon.stop(pid));
      expect(error).toMatchObject({ code: "not_allowed", details: { pid } });
      expect(isAlive()).toBe(true);
    },
  );
});
