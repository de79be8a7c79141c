/** What the daemon's answers look like to a person, and what the commands ask it for. */
import { describe, expect, test } from "bun:test";
import { mkdirSync } from "node:fs";
import { dirname } from "node:path";
import type { Command } from "~/cli/command";
import { managerText } from "~/cli/daemon/down";
import { outboxList } from "~/cli/daemon/outbox-list";
import { outboxRequeue } from "~/cli/daemon/outbox-requeue";
import { outboxShow } from "~/cli/daemon/outbox-show";
import { daemonStatus } from "~/cli/daemon/status";
import { daemonVersion } from "~/cli/daemon/version";
import { events } from "~/cli/events";
import { peers } from "~/cli/peers";
import { profile } from "~/cli/profile";
import { track } from "~/cli/track";
import { version } from "~/version";
import { versionHeader } from "~/wire/place";
import { type FakeDaemon, fakeDaemon, json, type Seen } from "../client/fake-daemon";
import { type CapturedHost, type CaptureOptions, capturedHost } from "./captured-host";

const time = "2026-01-01T00:00:00.000Z";
const red = "\u001b[31m";

function hostWith(
  answer: (request: Seen, index: number) => Response,
  options: CaptureOptions = {},
): { host: CapturedHost; daemon: FakeDaemon } {
  const host = capturedHost(options);
  mkdirSync(dirname(host.socketPath), { recursive: true });
  return { host, daemon: fakeDaemon(answer, host.socketPath) };
}

const textOf = (host: CapturedHost): string => host.answers.join("\n");

const row = (more: Record<string, unknown> = {}) => ({
  id: "row1",
  client_message_id: "id1",
  mesh: "team",
  to: `bob${red}`,
  destination: "b".repeat(64),
  priority: "next",
  status: "dead",
  attempts: 3,
  enqueued_at: time,
  last_error: `too large${red}`,
  may_have_been_sent: true,
  ...more,
});
const counts = { pending: 1, inflight: 2, done: 3, dead: 4, aborted: 5 };

test("peers: who, where, since when, and who is not to be trusted", async () => {
  const peer = { pubkey: "c".repeat(64), mesh: "team", online: true, status: "idle", capabilities: [] };
  const { host, daemon } = hostWith(() =>
    json({
      peers: [
        { ...peer, name: `bob${red}`, summary: "at work\nhere" },
        { ...peer, name: "carol", online: false, last_seen_at: time, untrusted: "admission" },
      ],
      stale: true,
    }),
  );
  await peers.execute(["--all", "--mesh", "team"], host);
  expect(daemon.seen[0]?.target).toBe("/v1/peers?mesh=team&all=true");
  expect(textOf(host)).toContain("bob\\x1b[31m");
  expect(textOf(host)).toContain("at work\\nhere");
  expect(textOf(host)).toMatch(/carol .* away since .* UNTRUSTED: nothing proves/);
  expect(host.notes).toEqual(["the broker is away: this is what was known last"]);
});

test("peers: nobody there is said on standard error", async () => {
  const { host } = hostWith(() => json({ peers: [], stale: false }));
  await peers.execute([], host);
  expect(host.notes[0]).toContain("peers --all");
});

describe("profile", () => {
  const reply = {
    summary: "s",
    status: "idle",
    visible: true,
    avatar: "",
    title: red,
    bio: "",
    capabilities: ["a", "b"],
  };
  const changes: [argv: string[], body: unknown][] = [
    [["--summary", ""], { summary: "" }],
    [["--status", "dnd", "--title", "t"], { status: "dnd", title: "t" }],
    [["--capability", "a", "--capability", "b"], { capabilities: ["a", "b"] }],
    [["--capability", ""], { capabilities: [] }],
    [["--hidden"], { visible: false }],
    [["--visible"], { visible: true }],
  ];
  test.each(changes)("%j sets it", async (argv, body) => {
    const { host, daemon } = hostWith(() => json(reply));
    await profile.execute(argv, host);
    expect(daemon.seen.map(({ method, body: sent }) => [method, sent])).toEqual([["POST", body]]);
  });

  test("without flags shows it", async () => {
    const { host, daemon } = hostWith(() => json(reply));
    await profile.execute([], host);
    expect(daemon.seen[0]?.method).toBe("GET");
    expect(textOf(host)).toContain("can do   a, b");
    expect(textOf(host)).not.toContain("\u001b");
  });
});

describe("status", () => {
  const health = {
    ok: true,
    pid: 7,
    uptime_s: 200,
    meshes: { team: { link: "waiting", since: time, rtt_ms: 1.4, error: `gone${red}` } },
    outbox: { counts, oldest_pending_s: 300 },
    inbox: { unread: 6 },
    problems: [{ code: "lane_waits", message: `bob waits${red}`, hint: "be patient" }],
  };
  const daemonOf =
    (daemon_version: string) =>
    ({ target }: Seen): Response => {
      const versions = {
        daemon_version,
        ipc_api: "v1",
        ipc_features: ["x"],
        schema_version: 1,
        meshes: { team: { broker_features: null } },
      };
      const response = json(target === "/v1/health" ? health : versions);
      response.headers.set(versionHeader, daemon_version);
      return response;
    };

  test("shows links, queues and problems with their way out", async () => {
    const { host } = hostWith(daemonOf(version));
    await daemonStatus.execute([], host);
    for (const words of [
      "up for 3 min, pid 7",
      "waiting since",
      "round trip 1 ms",
      "1 pending, the oldest for 5 min",
      "6 unread",
      "1 problem:",
      "hint: be patient",
    ])
      expect(textOf(host)).toContain(words);
    expect(textOf(host)).not.toContain("\u001b");
    expect(host.notes).toEqual([]);
  });

  test.each([daemonStatus, daemonVersion].map((command): [string, Command] => [command.name, command]))(
    "%s warns of a daemon of another version, with what to type",
    async (_name, command) => {
      const { host } = hostWith(daemonOf("9.9.9"), { json: true });
      await command.execute(["--json"], host);
      expect(host.notes).toEqual([
        expect.stringMatching(/^warning: the daemon runs version 9\.9\.9, .*daemon restart$/),
      ]);
    },
  );
});

describe("outbox", () => {
  test("list: one filter, the newest first, failed rows by that name", async () => {
    const { host, daemon } = hostWith(() => json({ items: [row()], counts }));
    await outboxList.execute(["--failed", "--limit", "3"], host);
    expect(daemon.seen[0]?.target).toBe("/v1/outbox?status=failed&limit=3");
    expect(textOf(host)).toContain("bob\\x1b[31m  failed  too large\\x1b[31m (may have been sent)");
    expect(host.notes).toEqual(["1 pending, 2 inflight, 3 done, 4 failed, 5 aborted"]);
  });

  test("show: everything about a row, its chain included", async () => {
    const chain = [
      { id: "row0", client_message_id: "id0", status: "aborted" },
      { id: "row1", client_message_id: "id1", status: "dead" },
    ];
    const { host, daemon } = hostWith(() =>
      json({ ...row(), message: "deploy\u001b[2J it", requeue_chain: chain }),
    );
    await outboxShow.execute(["id/1"], host);
    expect(daemon.seen[0]?.target).toBe("/v1/outbox/id%2F1");
    for (const words of ["attempts", "it was on the wire once", "id0 (aborted)", "id1 (dead)", "deploy"])
      expect(textOf(host)).toContain(words);
    expect(textOf(host)).not.toContain("\u001b");
  });

  const requeued = (id: string) => ({
    aborted_row_id: id,
    new_row_id: `new-${id}`,
    new_client_message_id: `again-${id}`,
    may_have_been_sent: id === "row2",
  });
  const idIn = ({ body }: Seen): string => String(Object(body).id);

  test("requeue: one row, under a new id", async () => {
    const { host, daemon } = hostWith(() => json(requeued("row2")));
    await outboxRequeue.execute(["row2", "--new-client-id", "n"], host);
    expect(daemon.seen[0]?.body).toEqual({ id: "row2", new_client_message_id: "n" });
    expect(textOf(host)).toBe("requeued row2 as again-row2; the old one may have arrived all the same");
  });

  test("requeue --all-failed: every page, oldest first, on past a refusal, with its status", async () => {
    const { host, daemon } = hostWith(
      (request) => {
        if (request.target === "/v1/outbox?status=failed&limit=500")
          return json({ items: [row({ id: "row3" }), row({ id: "row2" })], counts, next_cursor: "2" });
        if (request.target.startsWith("/v1/outbox?")) return json({ items: [row({ id: "row1" })], counts });
        return idIn(request) === "row2"
          ? json({ error: "not_requeueable", message: "it is done" }, 409)
          : json(requeued(idIn(request)));
      },
      { json: true },
    );
    expect(await outboxRequeue.execute(["--all-failed", "--json"], host)).toBe(6);
    const posted = daemon.seen.filter(({ method }) => method === "POST").map(idIn);
    expect(posted).toEqual(["row1", "row2", "row3"]);
    expect(host.answers).toEqual([
      {
        requeued: [requeued("row1"), requeued("row3")],
        refused: [{ id: "row2", error: "not_requeueable", message: "it is done" }],
      },
    ]);
  });

  test("requeue --all-failed stops when the daemon goes away", async () => {
    const { host, daemon } = hostWith(({ method }) =>
      method === "GET"
        ? json({ items: [row({ id: "row2" }), row({ id: "row1" })], counts })
        : json({ error: "daemon_stopping", message: "it is stopping" }, 503),
    );
    await expect(outboxRequeue.execute(["--all-failed"], host)).rejects.toMatchObject({
      code: "daemon_stopping",
      details: { requeued: [], refused: [] },
    });
    expect(daemon.seen.length).toBe(2);
  });
});

test("track: what is known, in words", async () => {
  const { host } = hostWith(() =>
    json({
      client_message_id: "k",
      mesh: "team",
      to: "bob",
      status: "inflight",
      enqueued_at: time,
      first_sent_at: time,
      last_error: red,
      receipts: [{ recipient: { name: "bob", pubkey: "b" }, stage: "delivered", at: time }],
    }),
  );
  await track.execute(["k"], host);
  for (const words of [
    "bob in team",
    "inflight (sent, not confirmed by the broker yet)",
    "delivered   by bob",
  ])
    expect(textOf(host)).toContain(words);
  expect(textOf(host)).not.toContain("\u001b");
});

test("events: one line each, every kind, nothing that steers the terminal", async () => {
  const item = {
    id: "r",
    client_message_id: "k",
    mesh: "team",
    from: { name: "alice", pubkey: "a" },
    body: `one\ntwo${red}${"x".repeat(100)}`,
    priority: "next",
    received_at: time,
  };
  const stream = [
    ["message", item, "41"],
    ["peer_join", { mesh: "team", name: "bob", pubkey: "b" }],
    ["peer_leave", { mesh: "team", name: "bob", pubkey: "b" }],
    ["broker_status", { mesh: "team", link: "waiting", since: time, error: "gone" }],
    ["outbox", row({ to: "bob", status: "done" })],
  ].map(
    ([event, data, id]) =>
      `${id === undefined ? "" : `id: ${id}\n`}event: ${event}\ndata: ${JSON.stringify(data)}\n\n`,
  );
  const { host } = hostWith((_request, index) => {
    if (index > 0) host.interrupt();
    return new Response(index === 0 ? stream.join("") : "");
  });
  await events.execute([], host);
  expect(host.answers.map((line) => String(line).replace(/^\S+ \S+ {2}/, ""))).toEqual([
    `message 41 from alice: one\\ntwo\\x1b[31m${"x".repeat(48)}…`,
    "bob came to team",
    "bob left team",
    "broker of team: waiting (gone)",
    "sent id1 to bob: done",
  ]);
});

describe("what keeps a managed daemon down", () => {
  const cases: [by: "systemd" | "launchd", scope: "user" | "system", words: string][] = [
    [
      "systemd",
      "user",
      "login. To keep it down: claudemesh daemon uninstall-service, or systemctl --user disable --now u",
    ],
    [
      "systemd",
      "system",
      "boot. To keep it down: sudo claudemesh daemon uninstall-service --system, or sudo systemctl disable --now u",
    ],
    [
      "launchd",
      "user",
      "login. To keep it down: claudemesh daemon uninstall-service, or launchctl bootout gui/$(id -u)/u",
    ],
    [
      "launchd",
      "system",
      "boot. To keep it down: sudo claudemesh daemon uninstall-service --system, or sudo launchctl bootout system/u",
    ],
  ];
  test.each(cases)("by %s, of the %s", (managed_by, managed_scope, words) => {
    expect(managerText({ managed_by, managed_unit: "u", managed_scope })).toEndWith(words);
  });
  test("is nothing where nobody manages it", () => {
    expect(managerText({ managed_by: null })).toBeUndefined();
  });
});
