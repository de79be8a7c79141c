/**
 * What tells one host from another: an id that the system keeps, and the addresses of network hardware. Only hashes leave this
 * file, each under a prefix of its own, so that nothing written down could be found again in what another program keeps.
 * "There is none" and "it could not be read" are told apart, in words.
 */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { readdirSync } from "node:fs";
import { networkInterfaces } from "node:os";
import { join } from "node:path";
import { fileExists, readTextFile } from "~/disk/file";
import { messageOf, systemCodeOf } from "~/errors";
import { hostCommandMsMax } from "~/wire/limits";

export type HostIdSource = "machine-id" | "dbus-machine-id" | "ioplatformuuid" | "kern.hostuuid";

export interface HostIdFact {
  source: HostIdSource;
  sha256: string;
}

export interface MacFact {
  interface: string;
  sha256: string;
}

export interface HostFacts {
  id: HostIdFact | undefined;
  /** Why there is no id; empty when there is one. */
  idMissing: string;
  /** Every stable hardware address, by the names of the interfaces. The first one is the one to remember. */
  macs: readonly MacFact[];
  /** Why there is none; empty when there are some. */
  macsMissing: string;
}

/** The system, as far as it is asked; tests put another in its place. */
export interface HostSystem {
  platform: NodeJS.Platform;
  /** What stands before `/etc` and `/sys`. */
  root: string;
  run(command: string, args: readonly string[]): string;
  interfaces(): NetworkInterface[];
}

export const thisSystem: HostSystem = {
  platform: process.platform,
  root: "/",
  run: (command, args) =>
    execFileSync(command, [...args], {
      encoding: "utf8",
      timeout: hostCommandMsMax,
      stdio: ["ignore", "pipe", "ignore"],
    }),
  interfaces: () =>
    Object.entries(networkInterfaces()).flatMap(([name, addresses = []]) =>
      addresses.slice(0, 1).map(({ mac, internal }) => ({ name, mac, isVirtual: internal })),
    ),
};

export function readHostFacts(system: HostSystem = thisSystem): HostFacts {
  const id = readHostId(system);
  const addresses = readMacs(system);
  return {
    ...("why" in id ? { id: undefined, idMissing: id.why } : { id, idMissing: "" }),
    ...("why" in addresses ? { macs: [], macsMissing: addresses.why } : { macs: addresses, macsMissing: "" }),
  };
}

const hashed = (prefix: string, value: string): string =>
  createHash("sha256").update(`${prefix}\0${value}`).digest("hex");

// ── The host's id ───────────────────────────────────────────────────────────────────────────────────────────────────

interface Missing {
  why: string;
}

interface Source {
  name: HostIdSource;
  /** As people know it. */
  place: string;
  /** Undefined when there is none; throws when that cannot be found out. */
  read(): string | undefined;
}

/** The first source that has an id. The hash does not depend on which: D-Bus usually repeats systemd's. */
function readHostId(system: HostSystem): HostIdFact | Missing {
  const reasons: string[] = [];
  for (const { name, place, read } of sourcesOf(system)) {
    try {
      const id = read();
      if (id !== undefined) return { source: name, sha256: hashed("claudemesh-host-id", id) };
      reasons.push(`${place} has no id`);
    } catch (error) {
      reasons.push(`${place} cannot be read (${systemCodeOf(error) ?? messageOf(error)})`);
    }
  }
  return { why: reasons.join(", ") || `nothing is known of ids on ${system.platform}` };
}

function sourcesOf({ platform, root, run }: HostSystem): Source[] {
  const file = (name: HostIdSource, path: string): Source => ({
    name,
    place: `/${path}`,
    read: () => parseHostId(readTextFile(join(root, path)) ?? ""),
  });
  switch (platform) {
    case "linux":
      return [file("machine-id", "etc/machine-id"), file("dbus-machine-id", "var/lib/dbus/machine-id")];
    case "darwin":
      return [
        {
          name: "ioplatformuuid",
          place: "ioreg",
          read: () => parseIoreg(run("/usr/sbin/ioreg", ["-rd1", "-c", "IOPlatformExpertDevice"])),
        },
      ];
    case "freebsd":
    case "netbsd":
    case "openbsd":
      return [
        {
          name: "kern.hostuuid",
          place: "kern.hostuuid",
          read: () => parseHostId(run("/sbin/sysctl", ["-n", "kern.hostuuid"])),
        },
      ];
    default:
      return [];
  }
}

/** What firmware says that was never given an id of its own (FreeBSD's rc.d/hostid knows it as well). */
const placeholderIds = ["03000200040005000006000700080009"];

/** The id as 32 hex digits; undefined for what stands for none: nothing, `uninitialized` (machine-id(5)), the same digit all through. */
export function parseHostId(text: string): string | undefined {
  const digits = text.trim().toLowerCase().replaceAll("-", "");
  if (!/^[0-9a-f]{32}$/.test(digits) || /^(.)\1*$/.test(digits)) return undefined;
  return placeholderIds.includes(digits) ? undefined : digits;
}

/** Out of `ioreg -rd1 -c IOPlatformExpertDevice`. */
export const parseIoreg = (text: string): string | undefined =>
  parseHostId(/"IOPlatformUUID"\s*=\s*"([^"]*)"/.exec(text)?.[1] ?? "");

// ── Network hardware ────────────────────────────────────────────────────────────────────────────────────────────────

export interface NetworkInterface {
  name: string;
  mac: string;
  /** Known to be no hardware, or to show another address than its own. */
  isVirtual: boolean;
}

function readMacs(system: HostSystem): MacFact[] | Missing {
  try {
    const sysNet = join(system.root, "sys/class/net");
    const listed =
      system.platform === "linux" && fileExists(sysNet) ? readSysNet(sysNet) : system.interfaces();
    const macs = stableMacs(listed);
    if (macs.length === 0) return { why: "no network hardware has an address of its own" };
    return macs.map(({ name, mac }) => ({ interface: name, sha256: hashed("claudemesh-host-mac", mac) }));
  } catch (error) {
    return { why: `the network interfaces cannot be listed (${systemCodeOf(error) ?? messageOf(error)})` };
  }
}

/** NET_ADDR_PERM of sysfs-class-net: the address is the hardware's, neither made up nor set by somebody. */
const permanentAddress = "0";

/**
 * Linux names every interface here, with a cable or without, and says which ones are hardware: those have a `device`. A part of
 * a bond shows the bond's address, and keeps its own beside it.
 */
function readSysNet(directory: string): NetworkInterface[] {
  return readdirSync(directory).map((name) => {
    const read = (file: string) => readAttribute(join(directory, name, file));
    const bonded = read("bonding_slave/perm_hwaddr");
    const isOwn = bonded !== undefined || read("addr_assign_type") === permanentAddress;
    return {
      name,
      mac: bonded ?? read("address") ?? "",
      isVirtual: !isOwn || !fileExists(join(directory, name, "device")),
    };
  });
}

/** An interface that goes away while it is read, or a driver that refuses, is an interface without this attribute. */
function readAttribute(path: string): string | undefined {
  try {
    return readTextFile(path)?.trim();
  } catch {
    return undefined;
  }
}

/**
 * Loopback, tunnels, bridges, bundles, containers, virtual machines and radio links of a moment, by the names that systems give them.
 * Short names count with a number or a separator after them alone: `br0` and `br-4f2a`, but not every name that begins so.
 */
const virtualName = new RegExp(
  [
    "^(ifb|dummy|ip6tnl|gretap|erspan|vxlan|geneve|macvlan|macvtap|ipvlan|nlmon|feth|faith)",
    "^(utun|ipsec|tailscale|nebula)",
    "^(bridge|virbr|docker|veth|cni|podman|flannel|cali|cilium|lxc|lxd|incus|kube|weave|nerdctl|ovs|vnet|epair)",
    "^(vmnet|vmenet|vboxnet|vnic|vEthernet|xenbr)",
    "^(awdl|llw|anpi|pktap|iptap|XHC|rndis)",
    "^(lo|gif|stf|sit|gre|vti|tun|tap|ppp|wg|zt|br|bond|team|lagg|vlan|vif|ap|can|usb)([-_ .]?\\d|[-_ .])",
    "^(lo$|p2p0$|p2p-)",
  ].join("|"),
);

/** Adapters that virtual machine software puts into a host: VMware's vmnet, Parallels' vnic, and Hyper-V's, which change at every start. */
const hostSideAddress = /^(00:50:56:c0:00|00:1c:42:00:00|00:15:5d)/;

/**
 * The interfaces whose address is the hardware's own and stays: no virtual ones, no address that was given out locally (the
 * second-lowest bit of the first octet, as in every randomised one) or that means a group. By name, so that the first is always
 * the same.
 */
export function stableMacs(interfaces: readonly NetworkInterface[]): { name: string; mac: string }[] {
  return interfaces
    .filter(({ name, isVirtual }) => !isVirtual && !virtualName.test(name))
    .map(({ name, mac }) => ({ name, mac: mac.toLowerCase() }))
    .filter(({ mac }) => isOwnAddress(mac))
    .sort((a, b) => (a.name < b.name ? -1 : 1));
}

function isOwnAddress(mac: string): boolean {
  if (!/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/.test(mac) || mac === "00:00:00:00:00:00") return false;
  const isGroupOrLocal = (Number.parseInt(mac.slice(0, 2), 16) & 0b11) !== 0;
  return !isGroupOrLocal && !hostSideAddress.test(mac);
}
