/** What to type next, said only when it is still to be done. */
import { askBrokerHealth } from "~/cli/broker/record";
import type { Host } from "~/cli/command";
import { askHealth, daemonClient } from "~/cli/daemon-client";
import { brokerUrlDefault } from "~/cli/mesh/membership";
import { localTime, printableLine } from "~/cli/text";
import { messageOf } from "~/errors";
import { readConfig } from "~/identity/config";
import { quoteForShell } from "~/service/cron";
import type { HealthReply } from "~/wire/ipc";

/** A running daemon follows config.json by itself; without one the membership receives nothing. */
export async function sayHowToReceive(host: Host): Promise<void> {
  let health: HealthReply | undefined;
  try {
    health = await askHealth(daemonClient(host));
  } catch (error) {
    await host.out.note(`warning: ${messageOf(error)}`);
    return;
  }
  if (health === undefined) await host.out.note("next: claudemesh daemon up");
  else if (health.ephemeral !== undefined) {
    const { until } = health.ephemeral;
    await host.out.note(
      `note: the daemon is ephemeral: this membership ends with it${until === undefined ? "" : `, at ${localTime(until)} at the latest`}`,
    );
  }
}

/** A broker was started, or runs already: what follows depends on whether this host is in a mesh on it, or anybody. */
export async function sayHowToUseBroker(host: Host, dataDir: string, url: string): Promise<void> {
  const { out, paths } = host;
  const meshes = (await askBrokerHealth(url))?.meshes ?? 0;
  let own: string[];
  try {
    own = readConfig(paths.configFile)
      .meshes.filter((mesh) => isSameAddress(mesh.brokerUrl, url))
      .map(({ slug }) => printableLine(slug));
  } catch (error) {
    await out.note(`warning: ${messageOf(error)}`);
    return;
  }
  if (own.length > 0 && meshes > 0) {
    await out.note(`this host is in ${own.join(", ")} there, and its daemon connects by itself`);
    return await sayHowToReceive(host);
  }
  if (own.length > 0) {
    await out.note(
      `warning: this host is in ${own.join(", ")} at that address, and this broker, with ${dataDir}, has no mesh at all. Was it another directory (--data)?`,
    );
    return;
  }
  const token = dataDir === paths.brokerDir ? "" : `CLAUDEMESH_BROKER_DATA=${quoteForShell(dataDir)} `;
  const create = `${token}claudemesh mesh create NAME${url === brokerUrlDefault ? "" : ` --broker ${url}`}`;
  await out.note(
    meshes === 0
      ? `next: ${create}`
      : `it has ${meshes} mesh${meshes === 1 ? "" : "es"}, and this host is in none of them: claudemesh join LINK, with an invite of a member. For another mesh: ${create}`,
  );
}

/** On the broker's own host it goes by several names. */
function isSameAddress(a: string, b: string): boolean {
  const addressOf = (url: string): string => {
    const { protocol, hostname, port, pathname } = new URL(url);
    const isLoopback = /^(localhost|127(\.\d+){3}|\[::1\])$/.test(hostname);
    return [protocol, isLoopback ? "loopback" : hostname, port, pathname].join(" ");
  };
  return addressOf(a) === addressOf(b);
}
