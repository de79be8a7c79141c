/** The line of a crontab (crontab(5)) that starts the daemon at every boot, for hosts without a service manager. */
import type { ServiceDefinition } from "~/service/definition";

export function cronLine({ executable, environment }: ServiceDefinition): string {
  const words = [
    ...Object.entries(environment).map(([name, value]) => `${name}=${quoteForShell(value)}`),
    quoteForShell(executable),
    "daemon up",
  ];
  // To cron a bare % is the end of the command.
  return `@reboot ${words.join(" ").replaceAll("%", "\\%")}`;
}

export const quoteForShell = (text: string): string =>
  /^[A-Za-z0-9_./:=@,+%-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
