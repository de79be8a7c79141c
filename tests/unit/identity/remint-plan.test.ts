/** The plan of a remint: what one run writes the next one reads, and what it cannot read it says. */
import { describe, expect, test } from "bun:test";
import { existsSync, statSync, writeFileSync } from "node:fs";
import { MeshError } from "~/errors";
import {
  type RemintPlan,
  readRemintPlan,
  remintPlanFile,
  remintProblems,
  removeRemintPlan,
  writeRemintPlan,
} from "~/identity/remint-plan";
import { tempDir } from "../../support/temp-dir";

const plan: RemintPlan = {
  version: 1,
  id: "0123456789abcdef0123456789abcdef",
  started_at: "2026-01-31T10:00:00.000Z",
  host: "a".repeat(64),
  backup: "/c/config.json.before-remint-1",
  meshes: [
    { mesh_id: "m1", slug: "team", copied_pubkey: "b".repeat(64) },
    { mesh_id: "m2", slug: "ops", copied_pubkey: "c".repeat(64), own_link: "ic://join/e30" },
  ],
};

test("what is written is read again, by its owner alone, until it is removed", () => {
  const dir = tempDir();
  expect([readRemintPlan(dir), remintProblems(dir)]).toEqual([undefined, []]);
  writeRemintPlan(dir, plan);
  expect(readRemintPlan(dir)).toEqual(plan);
  expect(statSync(remintPlanFile(dir)).mode & 0o777).toBe(0o600);
  expect(remintProblems(dir)).toMatchObject([
    { code: "remint_unfinished", hint: expect.stringContaining("claudemesh daemon remint") },
  ]);
  removeRemintPlan(dir);
  removeRemintPlan(dir);
  expect(existsSync(remintPlanFile(dir))).toBe(false);
});

describe("one that cannot be understood is an error that names the file, and a problem in health", () => {
  const texts: [what: string, text: string][] = [
    ["empty", ""],
    ["cut off", JSON.stringify(plan).slice(0, 100)],
    ["of another version", JSON.stringify({ ...plan, version: 2 })],
    ["without a mesh's key", JSON.stringify({ ...plan, meshes: [{ mesh_id: "m1", slug: "team" }] })],
  ];
  test.each(texts)("%s", (_, text) => {
    const dir = tempDir();
    writeFileSync(remintPlanFile(dir), text);
    expect(() => readRemintPlan(dir)).toThrow(MeshError);
    expect(() => readRemintPlan(dir)).toThrow(remintPlanFile(dir));
    expect(remintProblems(dir)).toHaveLength(1);
  });
});
