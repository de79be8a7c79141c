/** Help, from the same definitions that check the arguments; laid out by citty, aligned and wrapped for 80 columns by us. */
import { stripVTControlCharacters } from "node:util";
import { type ArgsDef, type CommandDef, renderUsage } from "citty";
import type { Args, Command, Group } from "~/cli/command";

const columnsMax = 80;

const exitMeanings: Readonly<Record<number, string>> = {
  0: "done",
  1: "failed; standard error says why",
  2: "wrong usage",
  3: "not connected: no daemon, or no broker where one is needed",
  4: "not allowed: token, membership, sandbox",
  5: "no such peer, message or row",
  6: "conflict: id or key already used for something else",
  7: "timed out waiting",
  130: "interrupted",
};

export async function renderCommandHelp(command: Command): Promise<string> {
  const usage = withDashes(
    await renderUsage({ meta: metaOf(command), args: cittyArgs(command.args) }),
    command.args,
  );
  const statuses = [0, 1, 2, ...command.exits];
  return [
    layOut(usage),
    ...(command.notes === undefined ? [] : ["", ...wrapParagraphs(command.notes)]),
    "",
    "EXIT STATUS",
    "",
    ...statuses.map((status) => `  ${String(status).padEnd(4)} ${exitMeanings[status] ?? ""}`),
    "",
    command.examples.length > 1 ? "EXAMPLES" : "EXAMPLE",
    "",
    ...command.examples.map((example) => `  ${example}`),
  ].join("\n");
}

export async function renderGroupHelp(group: Group): Promise<string> {
  const subCommands: Record<string, CommandDef> = {};
  for (const [name, load] of Object.entries(group.commands)) {
    subCommands[name] = { meta: { name, description: (await load()).description } };
  }
  return layOut(await renderUsage({ meta: metaOf(group), subCommands }));
}

const metaOf = ({ name, description }: Command | Group): { name: string; description: string } => ({
  name: name === "claudemesh" ? name : `claudemesh ${name}`,
  description: description.charAt(0).toUpperCase() + description.slice(1),
});

/** citty changes the definitions that it is given no more than we do, but its types do not say so. */
function cittyArgs(args: Args): ArgsDef {
  return Object.fromEntries(
    Object.entries(args).map(([name, arg]) => [
      name,
      arg.type === "enum" ? { ...arg, options: [...arg.options] } : { ...arg },
    ]),
  );
}

/** What runs another program's command line shows where that begins. */
function withDashes(usage: string, args: Args): string {
  const rest = Object.entries(args).find(([, arg]) => arg.type === "positional" && arg.rest === true)?.[0];
  if (rest === undefined) return usage;
  const plain = stripVTControlCharacters(usage);
  return plain.replace(
    new RegExp(`^(USAGE .*?)[<\\[]${rest.toUpperCase()}[>\\]]`, "m"),
    `$1-- ${rest.toUpperCase()} …`,
  );
}

/** Drops colours, puts flags flush left, and wraps what they mean beside them. */
function layOut(usage: string): string {
  const lines = stripVTControlCharacters(usage).trimEnd().split("\n");
  return lines.flatMap(layOutLine).join("\n");
}

function layOutLine(line: string): string[] {
  const row = /^ {2}( *)(\S+(?: \S+)*)(?: {2,}(.*))?$/.exec(line);
  if (row === null) return wrapUsage(line.trimEnd());
  const [, padding = "", term = "", meaning = ""] = row;
  const left = `  ${term}${padding}  `;
  // Beside a very long flag there is no room: what it means goes below.
  const indent = Math.min(left.length, 34);
  const wrapped = wrap(meaning.trim(), columnsMax - indent);
  const [first = "", ...rest] = wrapped;
  const below = rest.map((text) => " ".repeat(indent) + text);
  if (left.trimEnd().length + 2 > indent) {
    return [left.trimEnd(), ...wrapped.map((text) => " ".repeat(indent) + text)];
  }
  return [(left.trimEnd().padEnd(indent) + first).trimEnd(), ...below];
}

function wrapUsage(line: string): string[] {
  if (line.length <= columnsMax || !line.startsWith("USAGE")) return wrap(line, columnsMax);
  const [first = "", ...rest] = wrap(line, columnsMax - 4);
  return [first, ...rest.map((text) => `    ${text}`)];
}

const wrapParagraphs = (text: string): string[] =>
  text.split("\n").flatMap((paragraph) => (paragraph === "" ? [""] : wrap(paragraph, columnsMax)));

function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    if (line !== "" && line.length + 1 + word.length > width) {
      lines.push(line);
      line = word;
    } else line = line === "" ? word : `${line} ${word}`;
  }
  if (line !== "" || lines.length === 0) lines.push(line);
  return lines;
}
