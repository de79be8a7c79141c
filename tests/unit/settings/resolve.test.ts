/** Who decides: flags before config.toml before the surroundings before the default, for every knob, with the source named. */
import { expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import type { FileValues } from "~/settings/file";
import {
  defaultSettings,
  type KnobName,
  type KnobValue,
  knobNames,
  knobOf,
  type Settings,
} from "~/settings/knobs";
import { type Layers, loadSettings, resolveSettings, sourceText } from "~/settings/resolve";
import { nowhereSpecial } from "~/settings/surroundings";
import { hostPaths } from "~/wire/paths";
import { tempDir } from "../../support/temp-dir";

/** Two values of a knob, both other than its default. */
function others(name: KnobName): [KnobValue, KnobValue] {
  const knob = knobOf(name);
  switch (knob.kind) {
    case "flag":
      return [!knob.default, !knob.default];
    case "number": {
      const near = [knob.min, knob.min + 1, knob.min + 2].filter((value) => value !== knob.default);
      return [near[0] ?? 0, near[1] ?? 0];
    }
    case "choice": {
      const [first = "", second = ""] = knob.options.filter((option) => option !== knob.default);
      return [first, second];
    }
    case "list":
      return [["a"], ["b"]];
  }
}

const layers = (changes: Partial<Layers>): Layers => ({
  flags: {},
  file: undefined,
  surroundings: nowhereSpecial,
  ...changes,
});
const fileWith = (name: KnobName, value: KnobValue): FileValues => new Map([[name, { value, line: 7 }]]);
const outcome = (name: KnobName, changes: Partial<Layers>): [KnobValue, string] => {
  const { settings, sources } = resolveSettings(layers(changes));
  return [settings[name], sourceText(sources[name], "/c/config.toml")];
};

test.each(knobNames)("%s", (name) => {
  const [inFile, byFlag] = others(name);
  const flags: Partial<Settings> = { [name]: byFlag };
  expect(outcome(name, {})).toEqual([defaultSettings[name], "default"]);
  expect(outcome(name, { file: fileWith(name, inFile) })).toEqual([inFile, "config.toml:7"]);
  expect(outcome(name, { flags })).toEqual([byFlag, "flag"]);
  expect(outcome(name, { flags, file: fileWith(name, inFile) })).toEqual([byFlag, "flag"]);
});

test("surroundings stand between the file and the default", () => {
  const surroundings = { container: "/.dockerenv", ci: "GITHUB_ACTIONS" };
  expect(outcome("daemon.tcp", { surroundings })).toEqual([false, "container (/.dockerenv)"]);
  expect(outcome("daemon.tcp", { surroundings: { ...surroundings, container: undefined } })).toEqual([
    false,
    "CI (GITHUB_ACTIONS)",
  ]);
  const file = fileWith("daemon.tcp", true);
  expect(outcome("daemon.tcp", { surroundings, file })).toEqual([true, "config.toml:7"]);
  expect(outcome("daemon.tcp", { surroundings, flags: { "daemon.tcp": true } })).toEqual([true, "flag"]);
  for (const name of knobNames.filter((other) => other !== "daemon.tcp")) {
    expect(outcome(name, { surroundings })).toEqual([defaultSettings[name], "default"]);
  }
});

test("without anything, everything is as built in", () => {
  expect(resolveSettings(layers({})).settings).toEqual(defaultSettings);
});

test("a host's settings are read from its directory", async () => {
  const { settingsFile } = hostPaths({ HOME: tempDir() });
  expect((await loadSettings(settingsFile, {}, nowhereSpecial)).settings).toEqual(defaultSettings);
  mkdirSync(dirname(settingsFile));
  writeFileSync(settingsFile, "[storage]\nretention_days = 1\n");
  const { settings, sources } = await loadSettings(settingsFile, {}, nowhereSpecial);
  expect(settings).toEqual({ ...defaultSettings, "storage.retention_days": 1 });
  expect(sources["storage.retention_days"]).toEqual({ from: "file", line: 2 });
});
