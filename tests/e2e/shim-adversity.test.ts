/** The shim where things go wrong: no message is lost without a word, nothing holds it up, and who drives it is told. */
import { describe, expect, test } from "bun:test";
import { mkdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { root } from "../support/cli";
import { type Driver, type Event, type ShimOptions, shimOnFd, shimOnSocket } from "../support/shim-driver";
import { tempDir } from "../support/temp-dir";

const bash = ["--", "bash", "--norc", "--noprofile"];
const stream = ["--runtime", "stream-json", "--profile", "claude"];
const fake = (name: string): string[] => [process.execPath, join(root, "tests/fakes", `${name}.ts`)];

/** Minutes pass in seconds. */
const hasty: ShimOptions = { executable: [process.execPath, join(root, "tests/support/hasty-main.ts")] };

let id = 0;
function send(driver: Driver, body: string): string {
  id += 1;
  driver.send({ cmd: "SendMessage", from: "ann", body, message_id: `m${id}` });
  return `m${id}`;
}

async function ask(driver: Driver, body: string): Promise<unknown> {
  const from = driver.events.length;
  const message_id = send(driver, body);
  return (await driver.next("Completion", (event) => event.message_id === message_id, from)).response;
}

const fates = (events: readonly Event[]): string[] =>
  events
    .filter(({ event }) => event === "MessageDelivered" || event === "DeliveryFailed")
    .map(({ event, id }) => `${event} ${id}`);

describe("a shim that cannot start tells who drives it, and fails what it was sent", () => {
  const starts: [what: string, args: () => string[], reason: RegExp][] = [
    ["no program", () => ["--", "no-such-agent"], /no-such-agent cannot be started: ENOENT/],
    ["a program without a name", () => ["--", ""], /"" cannot be started/],
    ["a directory for a program", () => ["--", tempDir()], /EACCES/],
    ["no program, without a terminal", () => [...stream, "--", "no-such-agent"], /no-such-agent cannot/],
    ["a file for a directory", () => ["--cwd", import.meta.path, ...bash], /no directory/],
    ["no profile", () => ["--profile", "cluade", ...bash], /no profile "cluade"/],
    ["no place for the log", () => ["--log", "/no/such/place/log", ...bash], /\/no\/such\/place\/log/],
    ["a directory for the log", () => ["--log", tempDir(), ...bash], /EISDIR|is not a file/],
  ];
  test.each(starts)("%s", async (_, args, reason) => {
    const { driver, shim } = await shimOnFd(args());
    const message = send(driver, "hello");
    expect(await shim.exited).not.toBe(0);
    await driver.next("DeliveryFailed", (event) => event.id === message);
    expect(driver.events[0]).toMatchObject({ event: "Error", command: "startup" });
    expect(driver.events[0]?.reason).toMatch(reason);
    expect(shim.stderr()).toMatch(reason);
  });
});

test.each([
  ["a socket pair", shimOnFd],
  ["a socket", shimOnSocket],
])("who says no more, but still reads, hears how it ends: %s", async (_, start) => {
  const { driver, shim } = await start(bash);
  await driver.next("Ready");
  const messages = [send(driver, "sleep 100"), send(driver, "echo never"), send(driver, "echo neither")];
  await driver.next("MessageDelivered");
  driver.endInput();
  await driver.next("Died");
  expect(fates(driver.events)).toEqual([
    `MessageDelivered ${messages[0]}`,
    `DeliveryFailed ${messages[1]}`,
    `DeliveryFailed ${messages[2]}`,
  ]);
  expect(await shim.exited).toBe(0);
});

describe("an agent that is given whole lines by its terminal", () => {
  const lines = ["--", "sh", "-c", "while printf '> '; read -r line; do printf %s \"$line\" | wc -c; done"];

  test.if(process.platform === "linux")(
    "gets a line that is as long as may be, and none that would be cut",
    async () => {
      const { driver } = await shimOnFd(lines);
      await driver.next("Ready");
      expect(await ask(driver, "x".repeat(4095))).toBe("4095");
      const tooLong = send(driver, `short\n${"x".repeat(4096)}`);
      expect(await driver.next("DeliveryFailed")).toMatchObject({
        id: tooLong,
        reason: expect.stringContaining("4095"),
      });
      expect(await ask(driver, "short")).toBe("5");
    },
  );
});

test("a line of any length for an agent that reads keys", async () => {
  const { driver } = await shimOnFd(bash);
  await driver.next("Ready");
  expect(await ask(driver, `echo ${"x".repeat(20_000)} | wc -c`)).toBe("20001");
});

describe("what is printed and is no text", () => {
  const outputs: [what: string, command: string, response: string | undefined][] = [
    [
      "counts beyond all bounds",
      String.raw`for final in L M S T I Z b X P @ A B C D H J K; do printf 'x\e[2147483647%s' $final; done; printf '\ec'; echo on`,
      "on",
    ],
    [
      "questions that nobody waits to be answered",
      String.raw`printf '\e[c\e[>c\e[6n\e[5n\eP$qm\e\\'; sleep 0.3; echo on`,
      "on",
    ],
    [
      "a question that is waited for",
      String.raw`stty -icanon -echo; printf '\e[5n'; IFS= read -r -t 5 -d n answer; stty icanon echo; printf '%q\n' "$answer"`,
      String.raw`$'\E[0'`,
    ],
    [
      "a string without an end, and many that are far too long",
      String.raw`for n in 1 2 3; do printf '\e]0;'; head -c 3000000 /dev/zero | tr '\0' x; done; printf '\a'; echo on`,
      "on",
    ],
    [
      "all bytes there are",
      String.raw`LC_ALL=C awk 'BEGIN { srand(7); for (n = 0; n < 300000; n++) printf "%c", 256 * rand() }'; printf '\ec'`,
      undefined,
    ],
  ];
  test.each(outputs)("%s", async (_, command, response) => {
    const { driver } = await shimOnFd(bash);
    await driver.next("Ready");
    const last = String(await ask(driver, command))
      .split("\n")
      .at(-1);
    // What becomes of bytes at random is nobody's business.
    if (response !== undefined) expect(last).toBe(response);
    expect(await ask(driver, "echo 'still' here")).toBe("still here");
  });
});

describe("an agent that does not read", () => {
  test("is told of and waited for: what it was given may reach it at any time", async () => {
    const deaf = "stty raw -echo; printf '$ '; sleep 1; head -c 150001 | wc -c; stty sane; exec bash --norc";
    const { driver } = await shimOnFd(["--", "bash", "-c", deaf], hasty);
    await driver.next("Ready");
    const message = send(driver, "x".repeat(150_000));
    await driver.next("Warning", ({ message }) => String(message).includes("has not read"));
    await driver.next("MessageDelivered");
    expect(fates(driver.events)).toEqual([`MessageDelivered ${message}`]);
  });

  test("never had it when it ends", async () => {
    const deaf = "stty raw -echo; printf '$ '; exec sleep 100";
    const { driver } = await shimOnFd(["--", "bash", "-c", deaf]);
    await driver.next("Ready");
    const messages = [send(driver, "x".repeat(150_000)), send(driver, "and more")];
    await driver.next("Warning", ({ message }) => String(message).includes("queued"));
    driver.send({ cmd: "Kill" });
    await driver.next("Died");
    await driver.next("DeliveryFailed", (event) => event.id === messages[0]);
    expect(fates(driver.events).toSorted()).toEqual(messages.map((id) => `DeliveryFailed ${id}`));
  });
});

test.each(["claude", "codex", "kiro"])(
  "a text that %s does not take is not left for the next one",
  async (name) => {
    const { driver } = await shimOnFd(["--profile", name, "--", ...fake(name)]);
    await driver.next("Ready");
    // As often as Enter is pressed.
    await ask(driver, "swallow 6\nsay first");
    const refused = send(driver, "say second");
    await driver.next("DeliveryFailed", (event) => event.id === refused);
    expect(await ask(driver, "say third")).toBe("third");
  },
);

describe("time", () => {
  test("a start that shows no prompt is given up after two minutes", async () => {
    const { driver, shim } = await shimOnFd(["--", "sh", "-c", "echo starting; exec sleep 1000"], hasty);
    const message = send(driver, "hello");
    expect(await driver.next("Error")).toMatchObject({
      command: "startup",
      reason: expect.stringContaining("120 s"),
    });
    await driver.next("Died", (event) => String(event.last_lines).includes("starting"));
    expect(fates(driver.events)).toEqual([`DeliveryFailed ${message}`]);
    expect(driver.events.filter(({ event }) => event === "SessionStats").length).toBeGreaterThan(5);
    driver.close();
    expect(await shim.exited).toBe(0);
  });

  test("an agent at work that prints nothing for five minutes is told of", async () => {
    const { driver } = await shimOnFd(bash, hasty);
    await driver.next("Ready");
    send(driver, "sleep 1000");
    const { message, idle_secs } = await driver.next("Warning", (event) => event.idle_secs !== null);
    expect(message).toContain("printed nothing");
    expect(Number(idle_secs)).toBeGreaterThanOrEqual(300);
    expect(Number(idle_secs)).toBeLessThan(400);
  });
});

test("an agent is no part of the session of another agent that it was started in", async () => {
  const env = { CLAUDECODE: "1", CLAUDE_CODE_ENTRYPOINT: "cli", CLAUDE_CODE_USE_BEDROCK: "1" };
  const { driver } = await shimOnFd(bash, { env });
  await driver.next("Ready");
  expect(await ask(driver, "env | grep ^CLAUDE | cut -d= -f1 | sort")).toBe(
    "CLAUDEMESH_AGENT_TREE\nCLAUDE_CODE_USE_BEDROCK",
  );
});

test("what it started with keeps nothing of it open, and leaves nothing behind", async () => {
  const dir = tempDir();
  mkdirSync(join(dir, "agent"));
  const { driver, shim } = await shimOnFd(["--log", join(dir, "log"), "--cwd", join(dir, "agent"), ...bash]);
  await driver.next("Ready");
  // Besides the terminal, only what lists them: not the orchestrator's connection, nor the log.
  expect(await ask(driver, "ls /dev/fd | grep -c . ; tty | cut -c1-5")).toMatch(/^[34]\n\/dev\/$/);
  driver.close();
  await shim.exited;
  expect(statSync(join(dir, "log")).mode & 0o777).toBe(0o600);
});
