/** The file of memberships: read as others wrote it, never lost, never shown to others, and written by many at once. */
import { describe, expect, test } from "bun:test";
import {
  chmodSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { MeshError } from "~/errors";
import {
  type Config,
  chooseMesh,
  type MeshEntry,
  parseConfig,
  readConfig,
  updateConfig,
  withMesh,
  withoutMesh,
} from "~/identity/config";
import { root } from "../../support/cli";
import { tempDir } from "../../support/temp-dir";
import { cryptoVectors } from "../../vectors/vectors";

const { alice, bob } = cryptoVectors;

const entry = (change: Partial<MeshEntry> = {}): MeshEntry => ({
  meshId: "mesh-1",
  memberId: "member-1",
  slug: "team",
  name: "Team",
  pubkey: alice.public_hex,
  secretKey: alice.secret_hex,
  brokerUrl: "ws://127.0.0.1:7900/ws",
  joinedAt: "2025-06-15T15:06:40.000Z",
  ...change,
});

function errorOf(action: () => unknown): MeshError {
  try {
    action();
  } catch (error) {
    if (error instanceof MeshError) return error;
    throw error;
  }
  throw new Error("nothing was refused");
}

/** A configuration file with this text and mode, in a directory of its own. */
function configFile(text: string, mode = 0o600): string {
  const path = join(tempDir(), "config.json");
  writeFileSync(path, text, { mode });
  chmodSync(path, mode);
  return path;
}

const modeOf = (path: string): number => statSync(path).mode & 0o777;
const parse = (value: unknown): Config => parseConfig(JSON.stringify(value), "/c/config.json");

describe("reading", () => {
  test("no file is no mesh", () => {
    expect(readConfig(join(tempDir(), "config.json"))).toEqual({ version: 1, meshes: [] });
    expect(readConfig(join(tempDir(), "not", "there", "config.json"))).toEqual({ version: 1, meshes: [] });
  });

  test("what existing installs have", () => {
    const config = {
      version: 1,
      displayName: "alice",
      meshes: [
        entry({ rootKey: "A".repeat(43), inviteVersion: 1 }),
        entry({ meshId: "mesh-2", slug: "Old Mesh", inviteVersion: 3, ownerPubkey: bob.public_hex }),
        entry({ meshId: "mesh-3", trustedKeys: [bob.public_hex] }),
      ],
    };
    expect<unknown>(readConfig(configFile(JSON.stringify(config)))).toEqual(config);
  });

  test.each([0o644, 0o640, 0o660, 0o604, 0o602, 0o610, 0o777])(
    "a file that others can reach (mode %p) is refused, with the way to mend it",
    (mode) => {
      const path = configFile(JSON.stringify({ version: 1, meshes: [] }), mode);
      const error = errorOf(() => readConfig(path));
      expect(error.code).toBe("config_unsafe");
      expect(error.message).toContain(`mode ${mode.toString(8)}`);
      expect(error.hint).toBe(`chmod 600 '${path}'`);
      chmodSync(path, 0o600);
      expect(readConfig(path).meshes).toEqual([]);
    },
  );

  test.each([0o600, 0o400, 0o700])("a file that is its owner's alone (mode %p) is read", (mode) => {
    expect(readConfig(configFile('{"version":1,"meshes":[]}', mode)).meshes).toEqual([]);
  });

  const bad: Record<string, unknown> = {
    "another version": { version: 2, meshes: [] },
    "no version": { meshes: [] },
    "no meshes": { version: 1 },
    "meshes that are no list": { version: 1, meshes: {} },
    "a list": [],
    null: null,
    "a name that is no text": { version: 1, displayName: 1, meshes: [] },
    ...Object.fromEntries(
      (
        [
          ["no mesh id", { meshId: undefined }],
          ["a mesh id that cannot be signed", { meshId: "a|b" }],
          ["a member id with a line feed", { memberId: "a\n" }],
          ["an empty slug", { slug: "" }],
          ["a key that is too short", { pubkey: "ab" }],
          ["another's public key", { pubkey: bob.public_hex }],
          ["a secret key of which only a part is there", { secretKey: "zz" }],
          ["an empty secret key", { secretKey: "" }],
          ["a secret key in capitals", { secretKey: alice.secret_hex.toUpperCase() }],
          ["a secret key that is no text", { secretKey: 1 }],
          ["a seed that belongs to another key", { secretKey: bob.seed_hex + alice.public_hex }],
          ["a page instead of a broker", { brokerUrl: "http://h/ws" }],
          ["an owner that is no key", { ownerPubkey: "bob" }],
          ["a trusted key that is none", { trustedKeys: ["bob"] }],
          ["no owner where members prove that the owner let them in", { inviteVersion: 3 }],
        ] as [string, Record<string, unknown>][]
      ).map(([what, change]) => [what, { version: 1, meshes: [{ ...entry(), ...change }] }]),
    ),
  };
  test.each(Object.entries(bad))("%s is refused", (_, value) => {
    const error = errorOf(() => parse(value));
    expect(error.code).toBe("config_invalid");
    expect(error.message).toStartWith("/c/config.json does not fit: ");
  });

  test("what does not belong together is said", () => {
    const mismatch = { version: 1, meshes: [entry({ pubkey: bob.public_hex })] };
    expect(errorOf(() => parse(mismatch)).message).toContain("pubkey and secretKey do not belong together");
    const damaged = { version: 1, meshes: [entry({ secretKey: bob.seed_hex + alice.public_hex })] };
    expect(errorOf(() => parse(damaged)).message).toContain("its halves do not belong together");
  });

  test("no secret is repeated in an error", () => {
    const damaged = { version: 1, meshes: [entry({ secretKey: `${alice.secret_hex}x` })] };
    const error = errorOf(() => parse(damaged));
    expect(`${error.message} ${error.hint}`).not.toContain(alice.seed_hex);
  });
});

describe("writing", () => {
  const add = (mesh: MeshEntry) => (config: Config) => withMesh(config, mesh);

  test("makes the file and its directory, for their owner only", () => {
    const dir = join(tempDir(), "deep", "config");
    const path = join(dir, "config.json");
    const written = updateConfig(path, add(entry()));
    expect(written.meshes).toEqual([entry()]);
    expect(readConfig(path)).toEqual(written);
    expect([modeOf(path), modeOf(dir)]).toEqual([0o600, 0o700]);
    expect(readFileSync(path, "utf8")).toEndWith("\n");
  });

  test("leaves nothing beside it but the lock", () => {
    const dir = tempDir();
    updateConfig(join(dir, "config.json"), add(entry()));
    expect(readdirSync(dir).sort()).toEqual(["config.json", "config.json.lock"]);
  });

  test("keeps what it does not know, at the top and in every mesh", () => {
    const stranger = {
      version: 1,
      futureTop: { nested: [1, null] },
      meshes: [{ ...entry(), futureField: "kept", prototypeLike: { constructor: 1 } }],
      displayName: "alice",
    };
    const path = configFile(JSON.stringify(stranger));
    const other = entry({ meshId: "mesh-2", slug: "other" });
    updateConfig(path, add(other));
    expect(JSON.parse(readFileSync(path, "utf8"))).toEqual({
      ...stranger,
      meshes: [...stranger.meshes, other],
    });
    updateConfig(path, (config) => withoutMesh(config, "mesh-2"));
    expect(JSON.parse(readFileSync(path, "utf8"))).toEqual(stranger);
  });

  const malformed: Record<string, string> = {
    "half of a file": '{"version":1,"meshes":[',
    "no JSON": "hello",
    nothing: "",
    "a newer version": '{ "version": 2, "meshes": [] }',
    "one mesh that does not fit": JSON.stringify({
      version: 1,
      meshes: [entry(), { ...entry(), secretKey: "zz" }],
    }),
  };
  test.each(Object.entries(malformed))("never touches %s", (_, text) => {
    const path = configFile(text);
    const before = statSync(path);
    const error = errorOf(() => updateConfig(path, add(entry())));
    expect(error.code).toBe("config_invalid");
    expect(error.message).toContain(path);
    expect(readFileSync(path, "utf8")).toBe(text);
    expect([statSync(path).ino, statSync(path).mtimeMs]).toEqual([before.ino, before.mtimeMs]);
  });

  test("never touches a file that others can reach", () => {
    const path = configFile('{"version":1,"meshes":[]}', 0o644);
    expect(errorOf(() => updateConfig(path, add(entry()))).code).toBe("config_unsafe");
    expect([readFileSync(path, "utf8"), modeOf(path)]).toEqual(['{"version":1,"meshes":[]}', 0o644]);
  });

  test("never writes a change that failed, and lets go of the lock", () => {
    const path = join(tempDir(), "config.json");
    updateConfig(path, add(entry()));
    const before = readFileSync(path, "utf8");
    const failing = () =>
      updateConfig(path, () => {
        throw new RangeError("changed my mind");
      });
    expect(failing).toThrow("changed my mind");
    expect(readFileSync(path, "utf8")).toBe(before);
    updateConfig(path, add(entry({ meshId: "mesh-2" })));
    expect(readConfig(path).meshes.length).toBe(2);
  });

  test("refuses a directory in which others can write", () => {
    const dir = join(tempDir(), "open");
    mkdirSync(dir);
    chmodSync(dir, 0o777);
    expect(errorOf(() => updateConfig(join(dir, "config.json"), add(entry()))).code).toBe("path_unsafe");
    expect(readdirSync(dir)).toEqual([]);
  });

  test("goes through a symbolic link and leaves it one", () => {
    const dir = tempDir();
    const target = configFile('{"version":1,"meshes":[]}');
    const path = join(dir, "config.json");
    symlinkSync(target, path);
    updateConfig(path, add(entry()));
    expect(lstatSync(path).isSymbolicLink()).toBe(true);
    expect(readlinkSync(path)).toBe(target);
    expect(JSON.parse(readFileSync(target, "utf8")).meshes.length).toBe(1);
    expect(modeOf(target)).toBe(0o600);
  });

  test("by many processes at once loses nothing", async () => {
    const path = join(tempDir(), "config.json");
    const processes = 6;
    const meshesEach = 4;
    const children = Array.from({ length: processes }, (_, index) =>
      Bun.spawn(
        [process.execPath, join(import.meta.dir, "add-meshes.ts"), path, `p${index}`, String(meshesEach)],
        { cwd: root, stderr: "pipe" },
      ),
    );
    const errors = await Promise.all(children.map((child) => new Response(child.stderr).text()));
    expect(errors).toEqual(Array(processes).fill(""));
    const wanted = children.flatMap((_, index) =>
      Array.from({ length: meshesEach }, (_unused, nth) => `p${index}-${nth}`),
    );
    expect(
      readConfig(path)
        .meshes.map(({ meshId }) => meshId)
        .sort(),
    ).toEqual(wanted.sort());
  });
});

describe("adding and removing a mesh", () => {
  const one = entry();
  const two = entry({ meshId: "mesh-2", slug: "two" });
  const config: Config = { version: 1, displayName: "alice", meshes: [one, two] };

  test("adds at the end", () => {
    expect(withMesh({ ...config, meshes: [one] }, two)).toEqual(config);
  });
  test("replaces the one with the same id", () => {
    const renewed = { ...one, memberId: "member-9" };
    expect(withMesh(config, renewed)).toEqual({ ...config, meshes: [two, renewed] });
  });
  test("removes by id, and nothing when there is none", () => {
    expect(withoutMesh(config, "mesh-1")).toEqual({ ...config, meshes: [two] });
    expect(withoutMesh(config, "team")).toEqual(config);
  });
  test("changes nothing in place", () => {
    const before = structuredClone(config);
    withMesh(config, entry({ meshId: "mesh-3" }));
    withoutMesh(config, "mesh-1");
    expect(config).toEqual(before);
  });
});

describe("choosing a mesh", () => {
  const team = entry();
  const other = entry({ meshId: "mesh-2", slug: "other", name: "Other" });
  const twin = entry({ meshId: "mesh-3", slug: "team" });
  const idAsSlug = entry({ meshId: "mesh-4", slug: "mesh-2" });
  const config = (...meshes: MeshEntry[]): Config => ({ version: 1, meshes });

  const chosen: [what: string, config: Config, wanted: string | undefined, mesh: MeshEntry][] = [
    ["the only one", config(team), undefined, team],
    ["by slug", config(team, other), "other", other],
    ["by id", config(team, other), "mesh-1", team],
    ["by id where two have the slug", config(team, twin), "mesh-3", twin],
    ["by id where it is another's slug", config(idAsSlug, other), "mesh-2", other],
  ];
  test.each(chosen)("%s", (_, given, wanted, mesh) => {
    expect(chooseMesh(given, wanted)).toBe(mesh);
  });

  const refused: [
    what: string,
    config: Config,
    wanted: string | undefined,
    code: string,
    meshes?: string[],
  ][] = [
    ["there is none", config(), undefined, "no_mesh", []],
    ["there is none, and one is named", config(), "team", "no_such_mesh", []],
    ["there are two and none is named", config(team, other), undefined, "mesh_required", ["team", "other"]],
    ["nobody has that name", config(team, other), "nope", "no_such_mesh", ["team", "other"]],
    ["the name is in other letters", config(team), "TEAM", "no_such_mesh", ["team"]],
    ["the name is empty", config(team), "", "no_such_mesh", ["team"]],
    ["two have the slug", config(team, twin), "team", "mesh_required", ["mesh-1", "mesh-3"]],
  ];
  test.each(refused)("not when %s", (_, given, wanted, code, meshes = []) => {
    const error = errorOf(() => chooseMesh(given, wanted));
    expect<string>(error.code).toBe(code);
    expect(error.details).toEqual(code === "no_mesh" ? {} : { meshes });
    expect(error.hint).toBeString();
  });
});
