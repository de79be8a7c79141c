/** The unit as text, and what systemd itself says about it where there is one. */
import { describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { MeshError } from "~/errors";
import type { ServiceDefinition } from "~/service/definition";
import { renderSystemdUnit, systemdUnitName } from "~/service/systemd";
import { tempDir } from "../../support/temp-dir";
import { alice, definitionOf, nasty } from "./service-definition";

describe("the unit", () => {
  test("of a user", () => {
    const service = definitionOf();
    expect(systemdUnitName(service)).toBe("claudemesh-daemon.service");
    expect(renderSystemdUnit(service)).toBe(
      `# Written by claudemesh daemon install-service, and replaced by the next one. Changes of your own: systemctl --user edit claudemesh-daemon.service

[Unit]
Description=claudemesh daemon: keeps, sends and receives messages
Documentation=https://github.com/claudemesh/claudemesh
StartLimitIntervalSec=7200
StartLimitBurst=240

[Service]
Type=exec
ExecStart=/usr/local/bin/claudemesh daemon up --foreground
Environment=BUN_GC_TIMER_INTERVAL=30000
Restart=on-failure
RestartSec=15
RestartPreventExitStatus=2 4 5 6
TimeoutStopSec=90
KillMode=process
OOMPolicy=continue
MemoryHigh=80%
MemoryMax=90%
LimitNOFILE=8192:524288
NoNewPrivileges=yes
StandardOutput=journal
StandardError=journal
SyslogIdentifier=claudemesh

[Install]
WantedBy=default.target
`,
    );
  });

  test("of the system, with directories and certificates of its own", () => {
    const service = definitionOf({
      scope: "system",
      executable: "/home/linuxbrew/.linuxbrew/bin/claudemesh",
      env: {
        CLAUDEMESH_CONFIG_DIR: "/srv/my mesh",
        CLAUDEMESH_DAEMON_DIR: "/srv/daemon",
        NODE_EXTRA_CA_CERTS: "/etc/ssl/100%.pem",
      },
    });
    expect(systemdUnitName(service)).toMatch(/^claudemesh-daemon-alice-[0-9a-f]{8}\.service$/);
    expect(renderSystemdUnit(service)).toBe(
      `# Written by claudemesh daemon install-service, and replaced by the next one. Changes of your own: systemctl edit ${systemdUnitName(service)}

[Unit]
Description=claudemesh daemon: keeps, sends and receives messages
Documentation=https://github.com/claudemesh/claudemesh
Wants=network-online.target
After=network-online.target
RequiresMountsFor=/srv/daemon
StartLimitIntervalSec=7200
StartLimitBurst=240

[Service]
Type=exec
User=alice
ExecStart=/home/linuxbrew/.linuxbrew/bin/claudemesh daemon up --foreground
Environment=BUN_GC_TIMER_INTERVAL=30000
Environment="CLAUDEMESH_CONFIG_DIR=/srv/my mesh"
Environment=CLAUDEMESH_DAEMON_DIR=/srv/daemon
Environment=NODE_EXTRA_CA_CERTS=/etc/ssl/100%%.pem
Restart=on-failure
RestartSec=15
RestartPreventExitStatus=2 4 5 6
TimeoutStopSec=90
KillMode=process
OOMPolicy=continue
MemoryHigh=80%
MemoryMax=90%
LimitNOFILE=8192:524288
NoNewPrivileges=yes
ProtectSystem=full
StandardOutput=journal
StandardError=journal
SyslogIdentifier=claudemesh

[Install]
WantedBy=multi-user.target
`,
    );
  });

  test("has the search path of who installed it, and no other variable of his", () => {
    const env = {
      PATH: "/home/alice/.local/bin:/opt/my tools:/100%/bin:/bin:.",
      SECRET: "s3cret",
      LANG: "de",
    };
    const environment = renderSystemdUnit(definitionOf({ env }))
      .split("\n")
      .filter((line) => line.startsWith("Environment="));
    expect(environment).toEqual([
      "Environment=BUN_GC_TIMER_INTERVAL=30000",
      'Environment="PATH=/home/alice/.local/bin:/opt/my tools:/100%%/bin:/bin"',
    ]);
  });

  test("never cages the programs that the daemon hosts", () => {
    for (const scope of ["user", "system"] as const) {
      const unit = renderSystemdUnit(definitionOf({ scope }));
      expect(unit).not.toMatch(
        /^(Private|ProtectHome|ReadOnly|Inaccessible|Restrict|SystemCall|UMask|Capability|DynamicUser|RootDir)/m,
      );
    }
    // Since systemd 254 it would put a user's own service into a user namespace.
    expect(renderSystemdUnit(definitionOf())).not.toContain("ProtectSystem");
  });
});

describe("what stands for itself", () => {
  /** The lines of one key, without it. */
  const values = (service: ServiceDefinition, key: string): string[] =>
    renderSystemdUnit(service)
      .split("\n")
      .filter((line) => line.startsWith(`${key}=`))
      .map((line) => line.slice(key.length + 1));

  const paths: [path: string, execStart: string, environment: string][] = [
    ["/a/b", "/a/b", "CLAUDEMESH_DAEMON_DIR=/a/b"],
    ["/a b", '"/a b"', '"CLAUDEMESH_DAEMON_DIR=/a b"'],
    ["/100%/%h", "/100%%/%%h", "CLAUDEMESH_DAEMON_DIR=/100%%/%%h"],
    // The path of the program is no place for variables, and a dollar there is a dollar.
    // biome-ignore lint/suspicious/noTemplateCurlyInString: as systemd sees it
    ["/$HOME/${X}", '"/$HOME/${X}"', '"CLAUDEMESH_DAEMON_DIR=/$HOME/${X}"'],
    ["/ü;#", '"/ü;#"', '"CLAUDEMESH_DAEMON_DIR=/ü;#"'],
    ['/a"b', '/bin/sh -c "exec \\"$$0\\" \\"$$@\\"" "/a\\"b"', '"CLAUDEMESH_DAEMON_DIR=/a\\"b"'],
    ["/it's", '/bin/sh -c "exec \\"$$0\\" \\"$$@\\"" "/it\'s"', '"CLAUDEMESH_DAEMON_DIR=/it\'s"'],
    ["/$a\\b", '/bin/sh -c "exec \\"$$0\\" \\"$$@\\"" "/$$a\\\\b"', '"CLAUDEMESH_DAEMON_DIR=/$a\\\\b"'],
  ];
  test.each(paths)("%j", (path, execStart, environment) => {
    const service = definitionOf({ executable: path, env: { CLAUDEMESH_DAEMON_DIR: path, PATH: path } });
    expect(values(service, "ExecStart")).toEqual([`${execStart} daemon up --foreground`]);
    expect(values(service, "Environment").slice(1)).toEqual([
      environment,
      environment.replace("CLAUDEMESH_DAEMON_DIR=", "PATH="),
    ]);
  });

  test.each(["/a\nExecStartPre=/bin/evil", "/a\rb", "/a\u0000b", "/a\u001b[2J", "/a\u007f", "/a\ufffd"])(
    "%j is refused wherever it stands",
    (path) => {
      const attempts = [
        () => definitionOf({ executable: path }),
        () => definitionOf({ env: { CLAUDEMESH_CONFIG_DIR: path } }),
        () => definitionOf({ env: { CLAUDEMESH_DAEMON_DIR: path } }),
        () => definitionOf({ env: { NODE_EXTRA_CA_CERTS: path } }),
        () => definitionOf({ env: { PATH: `/bin:${path}` } }),
        () => definitionOf({ account: { ...alice, home: path } }),
        () => definitionOf({ account: { ...alice, name: path }, scope: "system" }),
      ];
      for (const attempt of attempts) {
        expect(attempt).toThrow(expect.objectContaining({ code: "path_unsafe" }) as MeshError);
      }
    },
  );
});

describe("names", () => {
  const nameOf = (wishes: Parameters<typeof definitionOf>[0]): string =>
    systemdUnitName(definitionOf(wishes));

  test("tell people and directories apart, and are the same every time", () => {
    const dir = { CLAUDEMESH_CONFIG_DIR: "/srv/a" };
    const names = [
      nameOf({}),
      nameOf({ scope: "system" }),
      nameOf({ env: dir }),
      nameOf({ scope: "system", env: dir }),
      nameOf({ env: { CLAUDEMESH_CONFIG_DIR: "/srv/b" } }),
      nameOf({ scope: "system", account: { ...alice, name: "bob" } }),
    ];
    expect(new Set(names).size).toBe(names.length);
    expect(nameOf({ env: dir })).toBe(nameOf({ env: dir }));
    // What the variable says is what would hold anyway.
    expect(nameOf({ env: { CLAUDEMESH_CONFIG_DIR: "/home/alice/.claudemesh/" } })).toBe(nameOf({}));
  });

  test.each(["user@corp.example", "CORP\\alice", "al ice", "machine$"])("%j is no part of one", (name) => {
    expect(nameOf({ scope: "system", account: { ...alice, name } })).toBe(
      "claudemesh-daemon-uid1001.service",
    );
  });
});

/** A file that systemd takes for a program. */
function program(path: string): string {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, "#!/bin/sh\n");
  chmodSync(path, 0o755);
  return path;
}

/** `systemd-analyze verify` needs no running systemd; it is part of the package of that name. */
describe.skipIf(Bun.which("systemd-analyze") === null)(
  "systemd-analyze verify finds nothing to say (skipped where there is none)",
  () => {
    function verify(scope: "user" | "system", name: string, unit: string) {
      const dir = tempDir();
      const path = join(dir, name);
      writeFileSync(path, unit);
      const args = ["systemd-analyze", "verify", ...(scope === "user" ? ["--user"] : []), path];
      const env = { PATH: process.env.PATH ?? "", HOME: dir, XDG_RUNTIME_DIR: dir, SYSTEMD_COLORS: "0" };
      const { exitCode, stdout, stderr } = Bun.spawnSync(args, { env, stdout: "pipe", stderr: "pipe" });
      // It also speaks about units of the machine that ours leads to.
      const about = `${stdout}${stderr}`.split("\n").filter((line) => line.includes("claudemesh"));
      return { exitCode, about };
    }

    const cases = (["user", "system"] as const).flatMap((scope) =>
      ["bin", nasty, "100% $HOME", "it's"].map((name) => [scope, name] as const),
    );
    test.each(cases)("%s, %j", (scope, name) => {
      const dir = join(tempDir(), name);
      const service = definitionOf({
        scope,
        account: { ...alice, name: "root" },
        executable: program(join(dir, "claudemesh")),
        env: {
          CLAUDEMESH_CONFIG_DIR: dir,
          CLAUDEMESH_DAEMON_DIR: join(dir, "d"),
          NODE_EXTRA_CA_CERTS: dir,
          PATH: `/usr/bin:/opt/${name}`,
        },
      });
      expect(verify(scope, systemdUnitName(service), renderSystemdUnit(service))).toEqual({
        exitCode: 0,
        about: [],
      });
    });

    test("and it would: an unknown key and a missing program are found", () => {
      const service = definitionOf({ executable: program(join(tempDir(), "claudemesh")) });
      const unit = renderSystemdUnit(service);
      const name = systemdUnitName(service);
      expect(verify("user", name, unit.replace("RestartSec", "RestartSeconds")).about).toEqual([
        expect.stringContaining("RestartSeconds"),
      ]);
      const gone = definitionOf({ executable: "/nowhere/claudemesh" });
      expect(verify("user", name, renderSystemdUnit(gone)).about.join()).toContain("/nowhere/claudemesh");
    });
  },
);
