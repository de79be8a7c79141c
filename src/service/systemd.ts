/**
 * The unit file for systemd (systemd.service(5), systemd.exec(5)), as text. What it decides, and why:
 *
 * - Only a failure brings the daemon back, and only so often; a clean stop is somebody's wish. Exit statuses that only a person
 *   can mend (wrong usage, not allowed, not found, conflict) are not tried again at all.
 * - The daemon hosts other programs, which live in its control group and inherit what is set here. They outlive it
 *   (`KillMode=process`), one of them that runs out of memory does not take it down (`OOMPolicy=continue`), and there is no
 *   private /tmp, hidden home, umask, or system call filter.
 * - `ProtectSystem=full` only for the system: in a user's own manager it does nothing before systemd 254, and since then it moves
 *   the service into a user namespace where the files of root belong to nobody, and where ssh refuses its own configuration.
 * - The user's manager has no `network-online.target`. The daemon waits for its broker by itself either way.
 */
import { inForeground, type ServiceDefinition } from "~/service/definition";
import {
  serviceMemoryPercent,
  serviceOpenFilesMax,
  serviceRestartDelayMs,
  serviceStartsMax,
  serviceStartsWindowMs,
  serviceStopMsMax,
} from "~/wire/limits";

export const systemdUnitName = ({ suffix }: Pick<ServiceDefinition, "suffix">): string =>
  `claudemesh-daemon${suffix}.service`;

export function renderSystemdUnit(service: ServiceDefinition): string {
  const isSystem = service.scope === "system";
  const edit = `systemctl ${isSystem ? "" : "--user "}edit ${systemdUnitName(service)}`;
  const sections = renderSections([
    [
      "Unit",
      [
        ["Description", "claudemesh daemon: keeps, sends and receives messages"],
        ["Documentation", "https://github.com/claudemesh/claudemesh"],
        ...(isSystem
          ? ([
              ["Wants", "network-online.target"],
              ["After", "network-online.target"],
              ["RequiresMountsFor", quoteWord(service.daemonDir)],
            ] as const)
          : []),
        ["StartLimitIntervalSec", String(serviceStartsWindowMs / 1000)],
        ["StartLimitBurst", String(serviceStartsMax)],
      ],
    ],
    [
      "Service",
      [
        ["Type", "exec"],
        ...(isSystem ? ([["User", service.account.name.replaceAll("%", "%%")]] as const) : []),
        ["ExecStart", execStart(service)],
        ...Object.entries(inForeground(service)).map(
          ([name, value]) => ["Environment", quoteWord(`${name}=${value}`)] as const,
        ),
        ["Restart", "on-failure"],
        ["RestartSec", String(serviceRestartDelayMs / 1000)],
        ["RestartPreventExitStatus", "2 4 5 6"],
        ["TimeoutStopSec", String(serviceStopMsMax / 1000)],
        ["KillMode", "process"],
        ["OOMPolicy", "continue"],
        ["MemoryHigh", `${serviceMemoryPercent.high}%`],
        ["MemoryMax", `${serviceMemoryPercent.max}%`],
        ["LimitNOFILE", `${serviceOpenFilesMax.soft}:${serviceOpenFilesMax.hard}`],
        ["NoNewPrivileges", "yes"],
        ...(isSystem ? ([["ProtectSystem", "full"]] as const) : []),
        ["StandardOutput", "journal"],
        ["StandardError", "journal"],
        ["SyslogIdentifier", "claudemesh"],
      ],
    ],
    ["Install", [["WantedBy", isSystem ? "multi-user.target" : "default.target"]]],
  ]);
  return `# Written by claudemesh daemon install-service, and replaced by the next one. Changes of your own: ${edit}

${sections}`;
}

type Section = readonly [name: string, lines: readonly (readonly [key: string, value: string])[]];

const renderSections = (sections: readonly Section[]): string =>
  sections
    .map(([name, lines]) => `[${name}]\n${lines.map(([key, value]) => `${key}=${value}\n`).join("")}`)
    .join("\n");

/**
 * systemd takes no quote and no backslash in the path of a program, however it is escaped; there a shell, which replaces itself,
 * gets it as an argument. Variables are replaced in arguments only, and `$$` is how one writes a dollar there.
 */
function execStart({ executable, args }: ServiceDefinition): string {
  const argument = (text: string): string => quoteWord(text.replaceAll("$", "$$$$"));
  const words = args.map(argument);
  return /["'\\]/.test(executable)
    ? ["/bin/sh", "-c", argument('exec "$0" "$@"'), argument(executable), ...words].join(" ")
    : [quoteWord(executable), ...words].join(" ");
}

/** One word, in quotes where it needs them; `%` begins a specifier everywhere in a unit. */
function quoteWord(text: string): string {
  const escaped = text.replace(/[\\"]/g, "\\$&").replaceAll("%", "%%");
  return /^[A-Za-z0-9_./:=@,+%-]+$/.test(escaped) ? escaped : `"${escaped}"`;
}
