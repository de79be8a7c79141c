/**
 * Where the executable begins and the only place where it ends: argv → command → exit status.
 * Asking for the version loads nothing else; everything further is loaded by the command that needs it.
 */
import { version } from "~/version";

const argv = process.argv.slice(2);

if (argv.length === 1 && argv[0] === "--version") {
  await Bun.write(Bun.stdout, `${version}\n`);
  process.exit(0);
}
const { runCommandLine } = await import("~/cli/start");
process.exit(await runCommandLine(argv, process.env, (status) => process.exit(status)));
