/** What every answer says of the daemon that gives it: its version and, when nothing outlives it, that. */
import { describe, expect, test } from "bun:test";
import type * as v from "valibot";
import { rulesOf } from "~/daemon/ipc/listen";
import { plainOrigin } from "~/daemon/origin";
import { version } from "~/version";
import { routes } from "~/wire/ipc";
import { ephemeralHeader, versionHeader } from "~/wire/place";
import type { Ephemeral } from "~/wire/reply";
import { openTestDaemon, testToken } from "../../support/daemon-parts";

const until = "2030-01-01T00:00:00.000Z";

async function daemonThatIs(ephemeral: Ephemeral | undefined) {
  const daemon = await openTestDaemon({ origin: { ...plainOrigin, ephemeral } });
  const bob = daemon.member("bob");
  daemon.list(bob);
  return daemon;
}

const requests: [what: string, method: string, path: string, body: unknown][] = [
  ["version", "GET", "/v1/version", undefined],
  ["health", "GET", "/v1/health", undefined],
  ["challenge", "GET", `/v1/challenge?nonce=${"0a".repeat(16)}`, undefined],
  ["send", "POST", "/v1/send", { to: "bob", message: "hi", client_message_id: "m1" }],
  ["inbox", "GET", "/v1/inbox", undefined],
  ["ack", "POST", "/v1/inbox/ack", { ids: [] }],
  ["peers", "GET", "/v1/peers", undefined],
  ["profile", "GET", "/v1/profile", undefined],
  ["a changed profile", "POST", "/v1/profile", { summary: "s" }],
  ["outbox", "GET", "/v1/outbox", undefined],
  ["an unknown message", "GET", "/v1/messages/nobody", undefined],
  ["an unknown row", "GET", "/v1/outbox/nobody", undefined],
  ["an unknown route", "GET", "/v1/nothing", undefined],
  ["a bad request", "POST", "/v1/send", { to: "" }],
  ["a conflict", "POST", "/v1/outbox/requeue", { id: "m1" }],
];

describe("every answer", () => {
  test.each(requests)("(%s) names the daemon's version", async (_what, method, path, body) => {
    const daemon = await daemonThatIs(undefined);
    const response = await daemon.request(method, path, body);
    expect(response.headers.get(versionHeader)).toBe(version);
    expect(response.headers.get(ephemeralHeader)).toBeNull();
    expect(await response.json()).not.toHaveProperty("ephemeral");
  });

  test.each(requests)(
    "(%s) of an ephemeral daemon says that nothing outlives it",
    async (_what, method, path, body) => {
      for (const [ephemeral, header] of [
        [{ until }, until],
        [{}, "end"],
      ] as const) {
        const daemon = await daemonThatIs(ephemeral);
        const response = await daemon.request(method, path, body);
        expect(response.headers.get(ephemeralHeader)).toBe(header);
        expect(await response.json()).toMatchObject({ ephemeral });
      }
    },
  );

  test("is so by the contract: each schema of a JSON object has the field", () => {
    for (const [name, { responses }] of Object.entries(routes)) {
      if (name === "openapi") continue;
      for (const schema of Object.values<v.GenericSchema>(responses)) {
        const options = "options" in schema ? (schema.options as v.GenericSchema[]) : [schema];
        const whole = options[0];
        if (whole === undefined || !("entries" in whole)) continue;
        expect([name, Object.keys(whole.entries as object)]).toEqual([
          name,
          expect.arrayContaining(["ephemeral"]),
        ]);
      }
    }
  });

  test("of the event stream has the headers", async () => {
    const daemon = await daemonThatIs({ until });
    const response = await daemon.request("GET", "/v1/events");
    expect([response.headers.get(versionHeader), response.headers.get(ephemeralHeader)]).toEqual([
      version,
      until,
    ]);
    await response.body?.cancel();
  });

  test("to a caller who was not let in tells nothing of it", async () => {
    const daemon = await daemonThatIs({ until });
    const over = daemon.app({ kind: "tcp", port: 47823 });
    const ask = (path: string, headers: Record<string, string> = {}) =>
      daemon.until(
        Promise.resolve(
          over.request(`http://127.0.0.1:47823${path}`, { headers: { host: "127.0.0.1:47823", ...headers } }),
        ),
      );
    for (const response of [
      await ask("/v1/health"),
      await ask("/v1/health", { authorization: `Bearer ${"x".repeat(43)}` }),
      await ask("/v1/health", { authorization: `Bearer ${testToken}`, origin: "https://evil.example" }),
      await ask(`/v1/challenge?nonce=${"0a".repeat(16)}`),
    ]) {
      expect([...response.headers.keys()].filter((name) => name.startsWith("claudemesh"))).toEqual([]);
      expect(await response.json()).not.toHaveProperty("ephemeral");
    }
    const admitted = await ask("/v1/health", { authorization: `Bearer ${testToken}` });
    expect(admitted.headers.get(versionHeader)).toBe(version);
    expect(rulesOf(daemon.parts).publicHealth).toBe(false);
  });
});
