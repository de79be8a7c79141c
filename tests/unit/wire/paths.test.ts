/** Where things are: from the environment, the same in every process, and short enough for a socket. */
import { describe, expect, test } from "bun:test";
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { MeshError } from "~/errors";
import { brokerPaths, checkSocketPath, daemonPaths, hostPaths } from "~/wire/paths";

describe("directories", () => {
  const inHome = (home: string) => ({
    configDir: `${home}/.claudemesh`,
    configFile: `${home}/.claudemesh/config.json`,
    settingsFile: `${home}/.claudemesh/config.toml`,
    daemonDir: `${home}/.claudemesh/daemon`,
    brokerDir: `${home}/.claudemesh/broker`,
  });
  const inConfig = (dir: string) => ({
    configDir: dir,
    configFile: `${dir}/config.json`,
    settingsFile: `${dir}/config.toml`,
  });
  const cases: [what: string, env: Record<string, string>, paths: Record<string, string>][] = [
    ["of a home", { HOME: "/home/a" }, inHome("/home/a")],
    ["without a home", {}, inHome(homedir())],
    ["with an empty home", { HOME: "" }, inHome(homedir())],
    [
      "of a configuration elsewhere",
      { HOME: "/home/a", CLAUDEMESH_CONFIG_DIR: "/c" },
      { ...inConfig("/c"), daemonDir: "/c/daemon", brokerDir: "/c/broker" },
    ],
    [
      "of a daemon elsewhere",
      { HOME: "/home/a", CLAUDEMESH_DAEMON_DIR: "/d" },
      { ...inHome("/home/a"), daemonDir: "/d" },
    ],
    [
      "of a broker elsewhere",
      { HOME: "/home/a", CLAUDEMESH_BROKER_DATA: "/b" },
      { ...inHome("/home/a"), brokerDir: "/b" },
    ],
    [
      "of everything elsewhere",
      { CLAUDEMESH_CONFIG_DIR: "/c", CLAUDEMESH_DAEMON_DIR: "/d/../e", CLAUDEMESH_BROKER_DATA: "/b/" },
      { ...inConfig("/c"), daemonDir: "/e", brokerDir: "/b" },
    ],
    [
      "of settings that are empty",
      { HOME: "/home/a", CLAUDEMESH_CONFIG_DIR: "", CLAUDEMESH_DAEMON_DIR: "", CLAUDEMESH_BROKER_DATA: "" },
      inHome("/home/a"),
    ],
    [
      "of a path that is relative, which is made whole once and for all",
      { HOME: "/home/a", CLAUDEMESH_DAEMON_DIR: "d" },
      { ...inHome("/home/a"), daemonDir: resolve("d") },
    ],
  ];
  test.each(cases)("%s", (_, env, paths) => {
    expect<unknown>(hostPaths(env)).toEqual(paths);
  });
});

test("a directory is made whole as node:path does it", () => {
  const parts = ["a", ".", "..", "...", ".a", "a.", "..a", "a..", "", " ", "é"];
  for (const first of parts) {
    for (const second of parts) {
      for (const start of ["", "/", "//", "./", "../"]) {
        for (const end of ["", "/", "//", "/.", "/.."]) {
          const dir = `${start}${first}/${second}${end}`;
          const { configDir, configFile, daemonDir } = hostPaths({ CLAUDEMESH_CONFIG_DIR: dir });
          expect([dir, configDir, configFile, daemonDir]).toEqual([
            dir,
            resolve(dir),
            join(resolve(dir), "config.json"),
            join(resolve(dir), "daemon"),
          ]);
          expect([dir, hostPaths({ HOME: dir }).configDir]).toEqual([dir, resolve(join(dir, ".claudemesh"))]);
        }
      }
    }
  }
});

test("no two files of a directory have the same place", () => {
  for (const paths of [daemonPaths("/d"), brokerPaths("/d")]) {
    const places: string[] = Object.values(paths);
    expect(new Set(places).size).toBe(places.length);
    expect(places.every((place) => place === "/d" || place.startsWith("/d/"))).toBe(true);
  }
});

test("the files that other programs look for have the names of the contract", () => {
  expect(daemonPaths("/d")).toMatchObject({
    socket: "/d/daemon.sock",
    token: "/d/local_token",
    httpPort: "/d/http.port",
    outbox: "/d/outbox.db",
    inbox: "/d/inbox.db",
  });
});

describe("a socket path", () => {
  const max = process.platform === "darwin" ? 103 : 107;
  const ofBytes = (bytes: number) => join("/", "a".repeat(bytes - 1));

  test("may be as long as the system allows", () => {
    expect(() => checkSocketPath(ofBytes(max))).not.toThrow();
  });

  test("may not be one byte longer, and the error says how long it is and what to do", () => {
    const thrown = (() => {
      try {
        checkSocketPath(ofBytes(max + 1));
      } catch (error) {
        return error;
      }
      return undefined;
    })();
    if (!(thrown instanceof MeshError)) throw new Error("it was taken");
    expect(thrown.code).toBe("socket_path_too_long");
    expect(thrown.message).toContain(`${max + 1} bytes`);
    expect(thrown.hint).toContain("CLAUDEMESH_DAEMON_DIR");
  });

  test("is measured in bytes", () => {
    expect(() => checkSocketPath(`/${"é".repeat(max / 2)}`)).not.toThrow();
    expect(() => checkSocketPath(`/${"é".repeat(max / 2 + 1)}`)).toThrow();
  });

  test("of that length can really be bound, and of one more not", async () => {
    const { tempDir } = await import("../../support/temp-dir");
    const dir = tempDir();
    const name = (bytes: number) => join(dir, "s".repeat(bytes - dir.length - 1));
    const bind = (path: string) => Bun.listen({ unix: path, socket: { data: () => undefined } });
    bind(name(max)).stop(true);
    expect(() => bind(name(max + 1)).stop(true)).toThrow();
  });
});
