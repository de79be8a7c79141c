/** Every command there is: what its help must hold. The commands are taken from the tree itself. */
import { describe, expect, test } from "bun:test";
import { type Command, type Group, isGroup } from "~/cli/command";
import { renderCommandHelp, renderGroupHelp } from "~/cli/help";
import { tree } from "~/cli/tree";

const commands: Command[] = [];
const groups: Group[] = [];
const paths = new Map<Command | Group, string>();

async function collect(group: Group, path: string[]): Promise<void> {
  groups.push(group);
  paths.set(group, path.join(" ") || "claudemesh");
  for (const [name, load] of Object.entries(group.commands)) {
    const node = await load();
    if (isGroup(node)) await collect(node, [...path, name]);
    else {
      commands.push(node);
      paths.set(node, [...path, name].join(" "));
    }
  }
}
await collect(tree, []);

describe.each(commands.map((command) => [command.name, command] as const))("%s", (name, command) => {
  test("is called what it is typed as", () => {
    expect(name).toBe(paths.get(command) ?? "");
  });

  test("has help with usage, flags, exit statuses and an example, in 80 columns", async () => {
    const help = await renderCommandHelp(command);
    expect(help).toContain(`USAGE claudemesh ${name}`);
    for (const [arg, { type }] of Object.entries(command.args)) {
      expect(help).toContain(type === "positional" ? arg.toUpperCase() : `--${arg}`);
    }
    const statuses = help.slice(help.indexOf("EXIT STATUS"), help.indexOf("EXAMPLE"));
    for (const status of [0, 1, 2, ...command.exits])
      expect(statuses).toMatch(new RegExp(`^ {2}${status} +\\S`, "m"));
    expect(command.examples.length).toBeGreaterThan(0);
    for (const example of command.examples) expect(help).toContain(`  ${example}`);
    expect(help.split("\n").filter((line) => line.length > 80 && !line.includes("claudemesh"))).toEqual([]);
    expect(help).not.toMatch(/[ \t]$/m);
    expect(help).not.toContain("\u001b");
  });

  test("every example is about this command", () => {
    for (const example of command.examples) {
      const isOwn =
        example.includes(`claudemesh ${name}`) || (name === "version" && example.includes("--version"));
      expect(isOwn).toBe(true);
    }
  });

  test("every flag says what it is for, and --json and --help are there", () => {
    for (const arg of Object.values(command.args)) expect(arg.description ?? "").not.toBe("");
    expect(Object.keys(command.args)).toContain("json");
    expect(Object.keys(command.args)).toContain("help");
  });

  test("exit statuses are listed once, in order", () => {
    expect([...command.exits]).toEqual([...new Set(command.exits)].sort((a, b) => a - b));
  });
});

describe.each(groups.map((group) => [group.name, group] as const))("group %s", (name, group) => {
  test("is called what it is typed as, and its help names every command", async () => {
    expect(name).toBe(paths.get(group) ?? "");
    const help = await renderGroupHelp(group);
    for (const command of Object.keys(group.commands))
      expect(help).toMatch(new RegExp(`^ {2}${command} +\\S`, "m"));
    expect(help).not.toContain("\u001b");
  });
});

test("only commands that exist are offered", () => {
  const names = [...paths.values()].sort();
  expect(names).toEqual(
    [
      "agent",
      "agent attach",
      "agent capture",
      "agent list",
      "agent logs",
      "agent run",
      "agent send",
      "agent stop",
      "broker",
      "broker down",
      "broker status",
      "broker up",
      "claudemesh",
      "completions",
      "completions bash",
      "completions fish",
      "completions zsh",
      "daemon",
      "daemon accept-host",
      "daemon down",
      "daemon install-service",
      "daemon outbox",
      "daemon outbox list",
      "daemon outbox requeue",
      "daemon outbox show",
      "daemon remint",
      "daemon status",
      "daemon uninstall-service",
      "daemon up",
      "daemon version",
      "config",
      "config get",
      "config path",
      "config set",
      "config show",
      "config unset",
      "daemon backup",
      "daemon logs",
      "daemon recover",
      "daemon restart",
      "daemon restore",
      "daemon rotate-token",
      "demo",
      "doctor",
      "events",
      "inbox",
      "join",
      "mesh",
      "mesh create",
      "mesh invite",
      "mesh leave",
      "mesh list",
      "mesh members",
      "mesh remove",
      "mesh trust",
      "mock",
      "mock daemon",
      "mock pilot",
      "mock replay",
      "mock schema",
      "peers",
      "profile",
      "send",
      "shim",
      "track",
      "version",
    ].sort(),
  );
});
