/** The property list as text, and what parsers read from it. */
import { describe, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { parse } from "plist";
import { launchdLabel, renderLaunchdPlist } from "~/service/launchd";
import { tempDir } from "../../support/temp-dir";
import { definitionOf, nasty } from "./service-definition";

const mac = { name: "alice", uid: 501, gid: 20, home: "/Users/alice" };

const everyJob = {
  RunAtLoad: true,
  KeepAlive: { SuccessfulExit: false },
  ThrottleInterval: 30,
  ExitTimeOut: 90,
  AbandonProcessGroup: true,
  ProcessType: "Interactive",
  SoftResourceLimits: { NumberOfFiles: 8192 },
};

test("the agent of a user, as text", () => {
  const service = definitionOf({ account: mac, executable: "/opt/homebrew/bin/claudemesh" });
  expect(renderLaunchdPlist(service)).toBe(`<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<!-- Written by claudemesh daemon install-service, and replaced by the next one. -->
<plist version="1.0">
<dict>
  <key>Label</key>
  <string>com.claudemesh.daemon</string>
  <key>ProgramArguments</key>
  <array>
    <string>/opt/homebrew/bin/claudemesh</string>
    <string>daemon</string>
    <string>up</string>
    <string>--foreground</string>
  </array>
  <key>EnvironmentVariables</key>
  <dict>
    <key>BUN_GC_TIMER_INTERVAL</key>
    <string>30000</string>
  </dict>
  <key>RunAtLoad</key>
  <true/>
  <key>KeepAlive</key>
  <dict>
    <key>SuccessfulExit</key>
    <false/>
  </dict>
  <key>ThrottleInterval</key>
  <integer>30</integer>
  <key>ExitTimeOut</key>
  <integer>90</integer>
  <key>AbandonProcessGroup</key>
  <true/>
  <key>ProcessType</key>
  <string>Interactive</string>
  <key>SoftResourceLimits</key>
  <dict>
    <key>NumberOfFiles</key>
    <integer>8192</integer>
  </dict>
  <key>StandardErrorPath</key>
  <string>/Users/alice/.claudemesh/daemon/daemon.log</string>
</dict>
</plist>
`);
});

describe("a parser reads", () => {
  test("the agent of a user", () => {
    expect(parse(renderLaunchdPlist(definitionOf({ account: mac })))).toEqual({
      Label: "com.claudemesh.daemon",
      ProgramArguments: ["/usr/local/bin/claudemesh", "daemon", "up", "--foreground"],
      EnvironmentVariables: { BUN_GC_TIMER_INTERVAL: "30000" },
      ...everyJob,
      StandardErrorPath: "/Users/alice/.claudemesh/daemon/daemon.log",
    });
  });

  test("the daemon of the system, which is told where its home is", () => {
    expect(parse(renderLaunchdPlist(definitionOf({ account: mac, scope: "system" })))).toEqual({
      Label: "com.claudemesh.daemon.alice",
      UserName: "alice",
      ProgramArguments: ["/usr/local/bin/claudemesh", "daemon", "up", "--foreground"],
      EnvironmentVariables: { HOME: "/Users/alice", BUN_GC_TIMER_INTERVAL: "30000" },
      ...everyJob,
      StandardErrorPath: "/Users/alice/.claudemesh/daemon/daemon.log",
    });
  });

  test("unpleasant paths as they are", () => {
    const dir = `/Users/alice/${nasty}`;
    const service = definitionOf({
      account: mac,
      executable: `${dir}/claudemesh`,
      env: {
        CLAUDEMESH_CONFIG_DIR: dir,
        CLAUDEMESH_DAEMON_DIR: `${dir}/]]>`,
        NODE_EXTRA_CA_CERTS: `${dir}/<!--`,
        PATH: `/opt/homebrew/bin:${dir}:bin`,
        SECRET: "s3cret",
      },
    });
    expect(parse(renderLaunchdPlist(service))).toMatchObject({
      Label: launchdLabel(service),
      ProgramArguments: [`${dir}/claudemesh`, "daemon", "up", "--foreground"],
      EnvironmentVariables: {
        BUN_GC_TIMER_INTERVAL: "30000",
        CLAUDEMESH_CONFIG_DIR: dir,
        CLAUDEMESH_DAEMON_DIR: `${dir}/]]>`,
        NODE_EXTRA_CA_CERTS: `${dir}/<!--`,
        PATH: `/opt/homebrew/bin:${dir}`,
      },
      StandardErrorPath: `${dir}/]]>/daemon.log`,
    });
  });
});

test.skipIf(Bun.which("plutil") === null)("plutil accepts it (skipped off macOS)", () => {
  const path = join(tempDir(), "job.plist");
  writeFileSync(
    path,
    renderLaunchdPlist(definitionOf({ account: mac, executable: `/Applications/${nasty}/claudemesh` })),
  );
  expect(Bun.spawnSync(["plutil", "-lint", path]).exitCode).toBe(0);
});
