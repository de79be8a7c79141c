import { defineCommand } from "~/cli/command";
import { examine } from "~/cli/doctor/examine";
import { type Finding, fail } from "~/cli/doctor/finding";
import { within } from "~/cli/doctor/probe";
import { columns, counted, printableLine } from "~/cli/text";
import { doctorMsMax } from "~/wire/limits";

export const doctor = defineCommand({
  name: "doctor",
  description: "look for what is wrong, and say what mends it",
  args: {},
  notes: `Looks at keys, permissions, settings, the host, clock, disk, databases, lock and socket, versions, the service, the log, and the way to each broker (name, connection, certificate, health). It changes nothing, asks nothing of the brokers but their health, prints no secret, and ends within ${Math.ceil(doctorMsMax / 1000)} seconds. Every finding is pass, warn or fail; what does not pass comes with what to type. Its status is 0 as long as nothing failed.`,
  exits: [],
  examples: ["claudemesh doctor", "claudemesh doctor --json"],
  async run(_args, host) {
    const late = (): Finding[] => [
      fail("doctor", `not everything answered within ${doctorMsMax / 1000} s`, "claudemesh daemon status"),
    ];
    const findings = await within(doctorMsMax, () => examine(host), late);
    const ok = !findings.some(({ status }) => status === "fail");
    const isColoured = process.stdout.isTTY && !host.env.NO_COLOR && host.env.TERM !== "dumb";
    await host.out.answer({ ok, findings }, () => renderFindings(findings, isColoured));
    return ok ? 0 : 1;
  },
});

const colours = { pass: "32", warn: "33", fail: "31" } as const;

export function renderFindings(findings: readonly Finding[], isColoured: boolean): string {
  const lines = columns(
    findings.map(({ status, check, message }) => [status, check, printableLine(message)]),
  ).split("\n");
  const indent = " ".repeat(6 + Math.max(...findings.map(({ check }) => check.length)) + 2);
  const shown = findings.flatMap(({ status, fix }, index) => {
    const line = lines[index] ?? "";
    const coloured = isColoured
      ? `\u001b[${colours[status]}m${status}\u001b[0m${line.slice(status.length)}`
      : line;
    return [coloured, ...(fix === undefined ? [] : [`${indent}fix: ${printableLine(fix)}`])];
  });
  return [...shown, "", summary(findings)].join("\n");
}

function summary(findings: readonly Finding[]): string {
  const count = (wanted: Finding["status"]): number =>
    findings.filter(({ status }) => status === wanted).length;
  const failed = count("fail");
  const warnings = counted(count("warn"), "warning");
  return failed === 0 ? `nothing failed, ${warnings}` : `${failed} failed, ${warnings}`;
}
