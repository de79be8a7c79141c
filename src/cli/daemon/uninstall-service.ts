import { defineCommand } from "~/cli/command";
import { serviceArgs, serviceTarget } from "~/cli/daemon/service-target";
import { uninstallService } from "~/service/install";

export const daemonUninstallService = defineCommand({
  name: "daemon uninstall-service",
  description: "stop the daemon's service and have it start no more",
  args: serviceArgs,
  notes:
    "Messages and keys stay where they are. When no service is installed nothing is touched, and the command ends with 0.",
  exits: [3, 4, 7],
  examples: ["claudemesh daemon uninstall-service", "sudo claudemesh daemon uninstall-service --system"],
  async run({ system, user }, host) {
    const command = "daemon uninstall-service";
    const { manager, daemon } = await serviceTarget(host, { system, user, command, purpose: "remove" });
    const removed = await uninstallService(manager, daemon);
    await host.out.answer({ removed }, () =>
      removed
        ? `the service is removed, and the daemon has stopped: ${manager.unitPath}`
        : `no service is installed: there is no ${manager.unitPath}`,
    );
    if (removed) await host.out.note("To run the daemon without a service: claudemesh daemon up");
  },
});
