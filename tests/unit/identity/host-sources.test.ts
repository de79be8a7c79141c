/** What hosts are told apart by: ids as each system keeps them, and which network hardware counts, on machines of many kinds. */
import { describe, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import {
  type HostSystem,
  type NetworkInterface,
  parseHostId,
  parseIoreg,
  readHostFacts,
  stableMacs,
} from "~/identity/host-sources";
import { tempDir } from "../../support/temp-dir";

const machineId = "3d1219c7c4c5404aaa1f6d2a48adfda4";
const hashOfId = createHash("sha256").update(`claudemesh-host-id\0${machineId}`).digest("hex");
const hashOfMac = (mac: string): string =>
  createHash("sha256").update(`claudemesh-host-mac\0${mac}`).digest("hex");

describe("an id", () => {
  const cases: [what: string, text: string, id: string | undefined][] = [
    ["with a newline", `${machineId}\n`, machineId],
    ["in upper case", machineId.toUpperCase(), machineId],
    ["as a UUID", "564D9A1C-8B2E-4F0A-9C3D-1E2F3A4B5C6D", "564d9a1c8b2e4f0a9c3d1e2f3a4b5c6d"],
    ["that is empty", "", undefined],
    ["of blanks", " \n\n", undefined],
    ["of an image before its first boot", "uninitialized\n", undefined],
    ["of zeros", "0".repeat(32), undefined],
    ["of zeros, as a UUID", "00000000-0000-0000-0000-000000000000", undefined],
    ["of one digit", "f".repeat(32), undefined],
    ["that a mainboard maker left as it was", "03000200-0400-0500-0006-000700080009", undefined],
    ["that is too short", machineId.slice(1), undefined],
    ["that is too long", `${machineId}0`, undefined],
    ["that is something else", "not an id at all, whatever it may be", undefined],
    ["twice", `${machineId}\n${machineId}`, undefined],
  ];
  test.each(cases)("%s", (_, text, id) => {
    expect(parseHostId(text)).toBe(id);
  });
});

/** As `ioreg -rd1 -c IOPlatformExpertDevice` prints on a Mac, shortened. */
const ioreg = (
  uuid: string,
): string => `+-o J316cAP  <class IOPlatformExpertDevice, id 0x100000220, registered, matched, active, busy 0 (153 ms), retain 39>
    {
      "compatible" = <"J316cAP","MacBookPro18,2","AppleARM">
      "IOPolledInterface" = "AppleARMWatchdogTimerHibernateHandler is not serializable"
      "IOPlatformSerialNumber" = "C02ABCDEFGH"
      "IOBusyInterest" = "IOCommand is not serializable"
      ${uuid}
      "manufacturer" = <"Apple Inc.">
    }
`;

describe("ioreg", () => {
  const cases: [what: string, text: string, id: string | undefined][] = [
    [
      "a Mac",
      ioreg('"IOPlatformUUID" = "564D9A1C-8B2E-4F0A-9C3D-1E2F3A4B5C6D"'),
      "564d9a1c8b2e4f0a9c3d1e2f3a4b5c6d",
    ],
    ["a Mac without one", ioreg(""), undefined],
    ["one that is empty", ioreg('"IOPlatformUUID" = ""'), undefined],
    ["one of zeros", ioreg('"IOPlatformUUID" = "00000000-0000-0000-0000-000000000000"'), undefined],
    ["no output", "", undefined],
  ];
  test.each(cases)("%s", (_, text, id) => {
    expect(parseIoreg(text)).toBe(id);
  });
});

// ── Which hardware counts ───────────────────────────────────────────────────────────────────────────────────────────

const nic = (name: string, mac: string, isVirtual = false): NetworkInterface => ({ name, mac, isVirtual });

describe("network hardware of", () => {
  const cases: [what: string, interfaces: NetworkInterface[], stable: string[]][] = [
    ["nothing", [], []],
    [
      "a Linux laptop with Docker, libvirt and a VPN",
      [
        nic("wlp0s20f3", "A4:C3:F0:11:22:33"),
        nic("lo", "00:00:00:00:00:00"),
        nic("docker0", "02:42:9a:11:22:33"),
        nic("br-4f2a91c0d3e1", "02:42:aa:bb:cc:dd"),
        nic("veth1a2b3c4", "00:16:aa:bb:cc:dd"),
        nic("vethabcdef", "00:16:aa:bb:cc:de"),
        nic("virbr0", "52:54:00:aa:bb:cc"),
        nic("tun0", "00:0c:aa:bb:cc:dd"),
        nic("wg0", ""),
        nic("tailscale0", ""),
        nic("enp0s31f6", "54:e1:ad:11:22:33"),
      ],
      ["enp0s31f6 54:e1:ad:11:22:33", "wlp0s20f3 a4:c3:f0:11:22:33"],
    ],
    [
      "a laptop whose wireless address is made up anew for every network",
      [nic("wlan0", "a6:c3:f0:11:22:33"), nic("wlan1", "de:ad:be:ef:00:01")],
      [],
    ],
    [
      "a Mac",
      [
        nic("lo0", "00:00:00:00:00:00", true),
        nic("utun3", "00:11:aa:bb:cc:dd"),
        nic("awdl0", "f8:ff:c2:11:22:33"),
        nic("llw0", "f8:ff:c2:11:22:33"),
        nic("ap1", "f8:ff:c2:11:22:34"),
        nic("bridge0", "f8:ff:c2:11:22:35"),
        nic("bridge100", "f8:ff:c2:11:22:64"),
        nic("vmenet0", "f8:ff:c2:11:22:65"),
        nic("anpi0", "f8:ff:c2:11:22:36"),
        nic("en5", "00:e0:4c:68:00:11"),
        nic("en0", "f8:ff:c2:44:55:66"),
      ],
      ["en0 f8:ff:c2:44:55:66", "en5 00:e0:4c:68:00:11"],
    ],
    ["a Mac with a private wireless address", [nic("en0", "fa:ff:c2:44:55:66")], []],
    [
      "a host of virtual machines",
      [
        nic("vmnet1", "00:50:56:c0:00:01"),
        nic("vmnet8", "00:50:56:c0:00:08"),
        nic("vboxnet0", "0a:00:27:00:00:00"),
        nic("vnic0", "00:1c:42:00:00:08"),
        nic("eth5", "00:1c:42:00:00:09"),
        nic("vEthernet (WSL)", "00:15:5d:11:22:33"),
        nic("eth0", "00:15:5d:44:55:66"),
        nic("eno1", "3c:ec:ef:11:22:33"),
      ],
      ["eno1 3c:ec:ef:11:22:33"],
    ],
    ["a container", [nic("lo", "00:00:00:00:00:00", true), nic("eth0", "02:42:ac:11:00:02")], []],
    ["a container of podman", [nic("eth0", "8a:11:22:33:44:55"), nic("podman0", "00:aa:22:33:44:55")], []],
    [
      "a Kubernetes node",
      [
        nic("cni0", "00:aa:22:33:44:55"),
        nic("flannel.1", "00:aa:22:33:44:56"),
        nic("cali12ab34cd56e", "00:aa:22:33:44:57"),
        nic("cilium_host", "00:aa:22:33:44:58"),
        nic("kube-ipvs0", "00:aa:22:33:44:59"),
        nic("lxcbr0", "00:16:3e:00:00:00"),
        nic("eth0", "00:0d:3a:11:22:33"),
      ],
      ["eth0 00:0d:3a:11:22:33"],
    ],
    ["a machine at AWS", [nic("ens5", "02:8a:11:22:33:44"), nic("eth0", "0a:8a:11:22:33:44")], []],
    ["a machine at Google", [nic("ens4", "42:01:0a:80:00:02")], []],
    ["a machine at Azure", [nic("eth0", "60:45:bd:11:22:33")], ["eth0 60:45:bd:11:22:33"]],
    ["a guest of VMware", [nic("ens160", "00:50:56:a1:22:33")], ["ens160 00:50:56:a1:22:33"]],
    ["a guest of QEMU", [nic("ens3", "52:54:00:11:22:33")], []],
    [
      "a FreeBSD jail host",
      [
        nic("lo0", "00:00:00:00:00:00"),
        nic("epair0a", "00:aa:22:33:44:55"),
        nic("lagg0", "00:25:90:11:22:33"),
        nic("igb0", "00:25:90:11:22:33"),
      ],
      ["igb0 00:25:90:11:22:33"],
    ],
    [
      "names that only begin like virtual ones",
      [nic("broadcom", "00:10:18:11:22:33"), nic("p2p1", "00:10:18:11:22:34")],
      ["broadcom 00:10:18:11:22:33", "p2p1 00:10:18:11:22:34"],
    ],
    [
      "wireless direct links",
      [nic("p2p-dev-wlan0", "00:10:18:11:22:33"), nic("p2p0", "00:10:18:11:22:33")],
      [],
    ],
    ["what the system calls virtual", [nic("eth0", "00:10:18:11:22:33", true)], []],
    [
      "addresses that are none",
      [
        nic("eth0", ""),
        nic("eth1", "00:00:00:00:00:00"),
        nic("eth2", "ff:ff:ff:ff:ff:ff"),
        nic("eth3", "01:00:5e:00:00:01"),
        nic("ib0", "80:00:02:08:fe:80:00:00:00:00:00:00:f4:52:14:03:00:7b:cb:a1"),
      ],
      [],
    ],
  ];
  test.each(cases)("%s", (_, interfaces, stable) => {
    const chosen = stableMacs(interfaces).map(({ name, mac }) => `${name} ${mac}`);
    expect(chosen).toEqual(stable);
    // Whatever order the system lists them in.
    expect(stableMacs([...interfaces].reverse()).map(({ name, mac }) => `${name} ${mac}`)).toEqual(stable);
  });

  test("any kind never counts with an address that was given out locally or means a group", () => {
    for (let octet = 0; octet < 256; octet++) {
      const first = octet.toString(16).padStart(2, "0");
      const isOwn = octet % 4 === 0;
      expect([first, stableMacs([nic("eth0", `${first}:25:90:11:22:33`)]).length]).toEqual([
        first,
        isOwn ? 1 : 0,
      ]);
    }
  });
});

// ── A whole system ──────────────────────────────────────────────────────────────────────────────────────────────────

/** A system of files under a directory of its own. */
function newSystem(
  files: Record<string, string>,
  {
    platform = "linux",
    run,
    interfaces = [],
  }: { platform?: NodeJS.Platform; run?: HostSystem["run"]; interfaces?: NetworkInterface[] } = {},
): HostSystem {
  const root = tempDir();
  for (const [path, content] of Object.entries(files)) {
    const file = join(root, path);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, content);
  }
  const noCommand = () => {
    throw Object.assign(new Error("no such command"), { code: "ENOENT" });
  };
  return { platform, root, run: run ?? noCommand, interfaces: () => interfaces };
}

const sysNet = (
  name: string,
  mac: string,
  { device = true, assigned = "0", bonded = "" } = {},
): Record<string, string> => ({
  [`sys/class/net/${name}/address`]: `${mac}\n`,
  [`sys/class/net/${name}/addr_assign_type`]: `${assigned}\n`,
  ...(device ? { [`sys/class/net/${name}/device/vendor`]: "0x8086\n" } : {}),
  ...(bonded === "" ? {} : { [`sys/class/net/${name}/bonding_slave/perm_hwaddr`]: `${bonded}\n` }),
});

describe("Linux", () => {
  test("takes systemd's id before D-Bus's, and hashes both alike", () => {
    const other = "f".repeat(31).padStart(32, "0");
    const both = newSystem({ "etc/machine-id": `${machineId}\n`, "var/lib/dbus/machine-id": `${other}\n` });
    expect(readHostFacts(both).id).toEqual({ source: "machine-id", sha256: hashOfId });
    const dbus = newSystem({
      "etc/machine-id": "uninitialized\n",
      "var/lib/dbus/machine-id": `${machineId}\n`,
    });
    expect(readHostFacts(dbus)).toMatchObject({
      id: { source: "dbus-machine-id", sha256: hashOfId },
      idMissing: "",
    });
  });

  test("tells an id that is missing from one that cannot be read", () => {
    const system = newSystem({ "etc/machine-id": "" });
    expect(readHostFacts(system)).toMatchObject({
      id: undefined,
      idMissing: "/etc/machine-id has no id, /var/lib/dbus/machine-id has no id",
    });
    const blocked = newSystem({ "etc/machine-id/is-a-directory": "" });
    expect(readHostFacts(blocked).idMissing).toStartWith("/etc/machine-id cannot be read (");
  });

  test("asks the kernel which interfaces are hardware, with and without a cable", () => {
    const system = newSystem(
      {
        "etc/machine-id": machineId,
        ...sysNet("eth0", "00:25:90:aa:bb:02", { device: false }),
        ...sysNet("enp2s0", "00:25:90:aa:bb:01"),
        ...sysNet("enp1s0", "00:25:90:aa:bb:03", { assigned: "3" }),
        ...sysNet("enp1s1", "00:25:90:aa:bb:04", { assigned: "1" }),
        ...sysNet("lo", "00:00:00:00:00:00", { device: false }),
        "sys/class/net/bonding_masters": "bond0\n",
      },
      { interfaces: [nic("a0", "00:25:90:aa:bb:99")] },
    );
    expect(readHostFacts(system).macs).toEqual([
      { interface: "enp2s0", sha256: hashOfMac("00:25:90:aa:bb:01") },
    ]);
  });

  test("sees through a bond, whose parts all show the address of the first", () => {
    const bondMac = "00:25:90:aa:bb:01";
    const system = newSystem({
      ...sysNet("bond0", bondMac, { device: false, assigned: "2" }),
      ...sysNet("eth0", bondMac, { assigned: "3", bonded: bondMac }),
      ...sysNet("eth1", bondMac, { assigned: "3", bonded: "00:25:90:aa:bb:02" }),
    });
    expect(readHostFacts(system).macs.map(({ sha256 }) => sha256)).toEqual(
      [bondMac, "00:25:90:aa:bb:02"].map(hashOfMac),
    );
  });

  test("without /sys takes what the system lists", () => {
    const system = newSystem(
      {},
      { interfaces: [nic("lo", "00:00:00:00:00:00", true), nic("eth0", "00:25:90:aa:bb:01")] },
    );
    expect(readHostFacts(system)).toMatchObject({ macs: [{ interface: "eth0" }], macsMissing: "" });
    expect(readHostFacts(newSystem({}))).toMatchObject({
      macs: [],
      macsMissing: "no network hardware has an address of its own",
    });
  });

  test("goes on when the interfaces cannot be listed, and says so", () => {
    const system = newSystem({ "sys/class/net": "not a directory" });
    expect(readHostFacts(system)).toMatchObject({
      macs: [],
      macsMissing: expect.stringContaining("cannot be listed (ENOTDIR)"),
    });
  });
});

describe("other systems", () => {
  test("macOS asks ioreg", () => {
    const asked: string[] = [];
    const run = (command: string, args: readonly string[]) => {
      asked.push([command, ...args].join(" "));
      return ioreg(`"IOPlatformUUID" = "${machineId}"`);
    };
    const facts = readHostFacts(
      newSystem({}, { platform: "darwin", run, interfaces: [nic("en0", "f8:ff:c2:44:55:66")] }),
    );
    expect(asked).toEqual(["/usr/sbin/ioreg -rd1 -c IOPlatformExpertDevice"]);
    expect(facts).toMatchObject({
      id: { source: "ioplatformuuid", sha256: hashOfId },
      macs: [{ interface: "en0" }],
    });
  });

  test("BSD asks sysctl", () => {
    const asked: string[] = [];
    const run = (command: string, args: readonly string[]) => {
      asked.push([command, ...args].join(" "));
      return `${machineId}\n`;
    };
    expect(readHostFacts(newSystem({}, { platform: "freebsd", run })).id).toEqual({
      source: "kern.hostuuid",
      sha256: hashOfId,
    });
    expect(asked).toEqual(["/sbin/sysctl -n kern.hostuuid"]);
  });

  test("a command that is missing, fails or says nothing useful leaves no id, with the reason", () => {
    expect(readHostFacts(newSystem({}, { platform: "darwin" })).idMissing).toBe(
      "ioreg cannot be read (ENOENT)",
    );
    expect(readHostFacts(newSystem({}, { platform: "darwin", run: () => "" })).idMissing).toBe(
      "ioreg has no id",
    );
    expect(
      readHostFacts(
        newSystem({}, { platform: "freebsd", run: () => "00000000-0000-0000-0000-000000000000\n" }),
      ).idMissing,
    ).toBe("kern.hostuuid has no id");
    expect(readHostFacts(newSystem({}, { platform: "aix" })).idMissing).toBe(
      "nothing is known of ids on aix",
    );
  });
});

test("nothing of this very machine leaves unhashed", () => {
  const facts = readHostFacts();
  for (const fact of [...(facts.id === undefined ? [] : [facts.id]), ...facts.macs])
    expect(fact.sha256).toMatch(/^[0-9a-f]{64}$/);
  expect(JSON.stringify(facts)).not.toMatch(/([0-9a-f]{2}:){5}/i);
});
