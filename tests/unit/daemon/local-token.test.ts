import { describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { LocalToken, openLocalToken, renewStoredToken } from "~/daemon/local-token";
import { tryLock } from "~/disk/lock";
import { challengeProof } from "~/wire/challenge";
import { routes } from "~/wire/ipc";
import { formerTokensMax } from "~/wire/limits";
import { daemonPaths, hostPaths } from "~/wire/paths";
import { cleanup } from "../../support/cleanup";
import { openTestDaemon, testToken } from "../../support/daemon-parts";
import { FakeClock } from "../../support/fake-clock";
import { tempDir } from "../../support/temp-dir";

const tokenPattern = /^[A-Za-z0-9_-]{43}\n$/;

function openToken(graceS = 60) {
  const file = join(tempDir(), "local_token");
  const clock = new FakeClock();
  const logged: unknown[] = [];
  const log = (...line: unknown[]) => void logged.push(line);
  const token = openLocalToken(file, { clock, graceS: () => graceS, log });
  return { file, clock, token, logged };
}

describe("the local token", () => {
  test("is made once, and is its owner's alone", () => {
    const { file, clock, token } = openToken();
    expect(readFileSync(file, "utf8")).toMatch(tokenPattern);
    expect(token.accepts(readFileSync(file, "utf8").trim())).toBe(true);
    chmodSync(file, 0o644);
    const again = openLocalToken(file, { clock, graceS: () => 60, log: () => undefined });
    expect(again.current).toBe(token.current);
    expect(statSync(file).mode & 0o777).toBe(0o600);
    writeFileSync(file, "not a token");
    expect(openLocalToken(file, { clock, graceS: () => 60, log: () => undefined }).current).not.toBe(
      token.current,
    );
    expect(readFileSync(file, "utf8")).toMatch(tokenPattern);
  });

  test("that is renewed is taken at once, and the one before it for the time of grace and no longer", () => {
    const { file, clock, token, logged } = openToken();
    const old = token.current;
    const { renewedAtMs, graceUntilMs } = token.renew();
    expect([renewedAtMs, graceUntilMs]).toEqual([clock.now(), clock.now() + 60_000]);
    expect(readFileSync(file, "utf8")).toBe(`${token.current}\n`);
    expect([token.accepts(old), token.accepts(token.current), token.accepts("x")]).toEqual([
      true,
      true,
      false,
    ]);
    // Setting the system's clock is no way around it.
    clock.setWall(0);
    clock.advance(59_999);
    expect(token.accepts(old)).toBe(true);
    clock.advance(1);
    expect([token.accepts(old), token.accepts(token.current)]).toEqual([false, true]);
    expect(JSON.stringify(logged)).toContain("token_rotated");
    for (const secret of [old, token.current]) expect(JSON.stringify(logged)).not.toContain(secret);
  });

  test("that is renewed again and again keeps each promise, up to a number", () => {
    const { clock, token } = openToken();
    const tokens = Array.from({ length: formerTokensMax + 2 }, () => {
      const { current } = token;
      token.renew();
      clock.advance(1);
      return current;
    });
    expect(tokens.map((old) => token.accepts(old))).toEqual([
      false,
      false,
      ...Array(formerTokensMax).fill(true),
    ]);
  });

  test("without grace ends at once", () => {
    const { token } = openToken(0);
    const old = token.current;
    token.renew();
    expect(token.accepts(old)).toBe(false);
  });

  test("that cannot be stored is not taken: the old one stays", () => {
    const token = new LocalToken({
      token: testToken,
      keep: () => {
        throw new Error("no space");
      },
      clock: new FakeClock(),
      graceS: () => 0,
      log: () => undefined,
    });
    expect(() => token.renew()).toThrow("no space");
    expect([token.current, token.accepts(testToken)]).toEqual([testToken, true]);
  });
});

describe("POST /v1/token/rotate", () => {
  test("answers no token; over TCP both are taken, then the new one alone; the challenge is proved with the new one", async () => {
    const daemon = await openTestDaemon();
    const tcp = daemon.app({ kind: "tcp", port: 47823 });
    const ask = async (token: string): Promise<number> => {
      const headers = { host: "127.0.0.1:47823", authorization: `Bearer ${token}` };
      return (await daemon.until(Promise.resolve(tcp.request("http://localhost/v1/version", { headers }))))
        .status;
    };
    expect(await ask(testToken)).toBe(200);
    const response = await daemon.request("POST", routes.rotateToken.path);
    const text = await response.text();
    const answer = v.parse(routes.rotateToken.responses[200], JSON.parse(text));
    expect(Date.parse(answer.grace_until) - Date.parse(answer.rotated_at)).toBe(60_000);
    const renewed = readFileSync(daemon.tokenFile, "utf8").trim();
    expect(renewed).not.toBe(testToken);
    expect(text).not.toContain(renewed);
    expect([await ask(testToken), await ask(renewed)]).toEqual([200, 200]);
    const nonce = "0a".repeat(32);
    const challenge = await daemon.request("GET", `/v1/challenge?nonce=${nonce}`);
    expect(await challenge.json()).toEqual({ proof: challengeProof(renewed, nonce) });
    daemon.clock.advance(60_000);
    expect([await ask(testToken), await ask(renewed), await ask("")]).toEqual([401, 200, 401]);
  });

  test("takes nothing: a body is not read, a query is refused, another method too", async () => {
    const daemon = await openTestDaemon();
    const { path } = routes.rotateToken;
    expect((await daemon.request("POST", `${path}?a=1`)).status).toBe(400);
    expect((await daemon.request("GET", path)).status).toBe(405);
    expect(daemon.parts.token.current).toBe(testToken);
  });
});

describe("without a daemon", () => {
  const hostIn = (dir: string) => hostPaths({ CLAUDEMESH_CONFIG_DIR: dir });

  test("the file alone is renewed, whatever it held, and nothing is left beside it", () => {
    const dir = tempDir();
    const paths = daemonPaths(join(dir, "daemon"));
    renewStoredToken(hostIn(dir), new FakeClock());
    const first = readFileSync(paths.token, "utf8");
    expect(first).toMatch(tokenPattern);
    writeFileSync(paths.token, "damaged", { mode: 0o644 });
    renewStoredToken(hostIn(dir), new FakeClock());
    expect(readFileSync(paths.token, "utf8")).toMatch(tokenPattern);
    expect(readFileSync(paths.token, "utf8")).not.toBe(first);
    expect(statSync(paths.token).mode & 0o777).toBe(0o600);
    expect(readdirSync(paths.dir).toSorted()).toEqual(["daemon.lock", "local_token"]);
  });

  test("one that holds the lock and does not answer keeps its token", () => {
    const dir = tempDir();
    const paths = daemonPaths(join(dir, "daemon"));
    mkdirSync(paths.dir, { mode: 0o700 });
    const lock = tryLock(paths.lock);
    cleanup(() => lock?.release());
    expect(() => renewStoredToken(hostIn(dir), new FakeClock())).toThrow("does not answer");
    expect(readdirSync(paths.dir)).not.toContain("local_token");
  });
});
