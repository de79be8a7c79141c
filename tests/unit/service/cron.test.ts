/** The line for hosts without a service manager: cron(8) gives it to a shell, which must read the words that were meant. */
import { expect, test } from "bun:test";
import { cronLine } from "~/service/cron";
import { definitionOf, nasty } from "./service-definition";

test("is as short as it can be", () => {
  expect(cronLine(definitionOf())).toBe("@reboot /usr/local/bin/claudemesh daemon up");
});

test("carries the search path and what else was chosen, and a shell gets it as it was", () => {
  const env = { PATH: `/opt/${nasty}:/bin`, CLAUDEMESH_CONFIG_DIR: `/srv/${nasty}` };
  const line = cronLine(definitionOf({ executable: "/bin/echo", env }));
  // To cron a % that is not escaped ends the command.
  expect(line.replaceAll("\\%", "")).not.toContain("%");
  const command = line.slice("@reboot ".length).replaceAll("\\%", "%").replace("/bin/echo daemon up", "env");
  const shell = Bun.spawnSync(["/bin/sh", "-c", command], { env: { PATH: "/usr/bin:/bin" } });
  const variables = shell.stdout.toString().split("\n");
  expect(variables).toContain(`PATH=${env.PATH}`);
  expect(variables).toContain(`CLAUDEMESH_CONFIG_DIR=${env.CLAUDEMESH_CONFIG_DIR}`);
});
