import { defineCommand, type Host } from "~/cli/command";
import { type ServiceTarget, serviceArgs, serviceTarget } from "~/cli/daemon/service-target";
import { MeshError } from "~/errors";
import { installService } from "~/service/install";
import { lingers } from "~/service/systemd-manager";
import { surroundingsOf } from "~/settings/surroundings";

export const daemonInstallService = defineCommand({
  name: "daemon install-service",
  description: "have launchd or systemd run the daemon, from now on and after every restart",
  args: {
    ...serviceArgs,
    print: { type: "boolean", description: "show the unit and change nothing" },
    "allow-ci-persistent": { type: "boolean", description: "do it in CI too, where it outlives the job" },
  },
  notes:
    "Installs over an older service of the same daemon, and takes over from one that was started by hand. CLAUDEMESH_CONFIG_DIR, CLAUDEMESH_DAEMON_DIR, NODE_EXTRA_CA_CERTS and PATH, where the programs are found that it hosts, go with it as they are now.",
  exits: [3, 4, 6, 7],
  examples: [
    "claudemesh daemon install-service",
    "claudemesh daemon install-service --print",
    "sudo claudemesh daemon install-service --system",
  ],
  async run({ system, user, print, "allow-ci-persistent": allowCi }, host) {
    const { ci } = surroundingsOf(host.env);
    if (ci !== undefined && !allowCi && !print) {
      throw new MeshError("not_allowed", `this is CI (${ci} is set), where a service would outlive the job`, {
        hint: "For a job: claudemesh daemon up --ephemeral. If it is meant: --allow-ci-persistent",
      });
    }
    const command = "daemon install-service";
    const target = await serviceTarget(host, { system, user, command, purpose: print ? "print" : "install" });
    const { unitPath, unit, bootCommand } = target.manager;
    const answer = { platform: process.platform, unit_path: unitPath, boot_command: bootCommand };
    if (print) {
      await host.out.answer({ ...answer, unit }, () => unit.trimEnd());
      await host.out.note(`nothing was changed. It would be ${unitPath}, and started by: ${bootCommand}`);
      await sayWhereItLooks(host, target);
      return;
    }
    const { pid, replaced, handedOver } = await installService(target.manager, target.daemon);
    await host.out.answer(answer, () =>
      [
        `the daemon is a service now: pid ${pid}${handedOver === undefined ? "" : `, in place of pid ${handedOver}`}`,
        `${replaced ? "replaced" : "written"}: ${unitPath}`,
        `its log: ${target.manager.logCommand}`,
      ].join("\n"),
    );
    await sayWhereItLooks(host, target);
    await sayWhenItRuns(host, target);
  },
});

/** Behind sudo, PATH is not that of the person whose programs the daemon will host. */
async function sayWhereItLooks({ out }: Host, { service }: ServiceTarget): Promise<void> {
  const { scope, account, environment } = service;
  const { PATH = "" } = environment;
  if (scope === "user" || PATH.split(":").some((directory) => directory.startsWith(`${account.home}/`)))
    return;
  await out.note(
    `Programs that the daemon hosts are looked for in ${PATH === "" ? "the system's own directories" : PATH}, and in none below ${account.home}. To give it your own PATH: sudo env "PATH=$PATH" claudemesh daemon install-service --system`,
  );
}

async function sayWhenItRuns({ out }: Host, { service, programs }: ServiceTarget): Promise<void> {
  const { scope, account } = service;
  if (account.uid === 0)
    await out.note("warning: the daemon runs as root, and so does every program that it hosts");
  if (scope === "system") return;
  if (programs.platform === "darwin") {
    await out.note(
      "It runs while you are logged in. To have it run from boot on, use sudo claudemesh daemon install-service --system instead.",
    );
    return;
  }
  const lingering = await lingers(programs, account.name);
  if (lingering === true) return;
  const doubt = lingering === undefined ? " (whether that is so already could not be found out)" : "";
  await out.note(
    `It stops when you log out, and starts when you log in. To have it run from boot on: loginctl enable-linger ${account.name}${doubt}`,
  );
}
