/** Knobs as the command line takes and shows them. */
import { usageError } from "~/cli/argv";
import type { Host } from "~/cli/command";
import { keyMeantBy } from "~/settings/file";
import {
  expectationOf,
  fits,
  isKnobName,
  type KnobName,
  type KnobValue,
  knobOf,
  unitOf,
} from "~/settings/knobs";
import { loadSettings, type Resolved } from "~/settings/resolve";
import { surroundingsOf } from "~/settings/surroundings";

/** What a daemon started here and now, without flags, would run with. */
export const settingsOf = ({ env, paths }: Host): Promise<Resolved> =>
  loadSettings(paths.settingsFile, {}, surroundingsOf(env));

/** Throws `usage` with what was probably meant. */
export function knobNamed(text: string): KnobName {
  if (isKnobName(text)) return text;
  throw unknownKey(text);
}

export function unknownKey(text: string): Error {
  const guess = keyMeantBy(text.split("."));
  return usageError(
    `there is no key ${JSON.stringify(text)}`,
    guess === undefined ? "claudemesh config show --defaults lists them." : `Did you mean ${guess}?`,
  );
}

/** A value as it is typed: lists with commas. Throws `usage` with what would do. */
export function valueTyped(name: KnobName, text: string): Exclude<KnobValue, null> {
  const knob = knobOf(name);
  const value = readTyped(knob.kind, text);
  if (fits(knob, value)) return value;
  throw usageError(
    `${name}: ${expectationOf(knob)} expected, not ${JSON.stringify(text)}`,
    `${name} ${knob.about}.`,
  );
}

function readTyped(kind: ReturnType<typeof knobOf>["kind"], text: string): unknown {
  switch (kind) {
    case "flag":
      return text === "true" ? true : text === "false" ? false : undefined;
    case "number":
      return /^\d{1,15}$/.test(text) ? Number(text) : undefined;
    case "choice":
      return text;
    case "list":
      return text.trim() === "" ? [] : text.split(",").map((entry) => entry.trim());
  }
}

/** As a person reads it, with its unit. */
export function valueShown(name: KnobName, value: KnobValue): string {
  const unit = unitOf(knobOf(name));
  if (value === null) return "–";
  if (Array.isArray(value)) return value.length === 0 ? "none" : value.join(", ");
  return unit === undefined || unit === "port" ? String(value) : `${value} ${unit}`;
}

export const appliesShown = (name: KnobName): "at once" | "after a restart" =>
  knobOf(name).live ? "at once" : "after a restart";

export const appliesText = (name: KnobName): string =>
  knobOf(name).live
    ? "a running daemon takes it over at once"
    : "a running daemon takes it over after claudemesh daemon restart";
