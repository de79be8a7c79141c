/**
 * The settings of a running daemon. They are read at the start, which a file that does not fit prevents, and again whenever
 * the file may have changed: what is live takes effect at once, the rest waits for a restart and says so in health. A file that
 * ceases to fit changes nothing until it is mended.
 */
import { asMeshError } from "~/errors";
import type { Log } from "~/log";
import { parseDocument } from "~/settings/document";
import { checkDocument, type FileValues, readSettingsText } from "~/settings/file";
import { type KnobName, knobNames, knobOf, type Settings } from "~/settings/knobs";
import { type Flags, type Resolved, resolveSettings, sourceText } from "~/settings/resolve";
import type { Surroundings } from "~/settings/surroundings";
import type { Problem } from "~/wire/ipc";

export interface LiveSettingsOptions {
  file: string;
  flags: Flags;
  surroundings: Surroundings;
  log: Log;
}

/** Called with the knobs whose value is another one now. */
export type SettingsListener = (changed: readonly KnobName[]) => void;

export class LiveSettings {
  readonly #options: LiveSettingsOptions;
  readonly #listeners: SettingsListener[] = [];
  #text: string | undefined;
  /** As the file says, knobs that wait for a restart included. */
  #resolved: Resolved;
  #current: Settings;
  #problem: Problem | undefined;
  /** The look at the file that is under way; whether another one must follow it. */
  #reading: Promise<void> | undefined;
  #isStale = false;

  private constructor(options: LiveSettingsOptions, text: string | undefined, resolved: Resolved) {
    this.#options = options;
    this.#text = text;
    this.#resolved = resolved;
    this.#current = resolved.settings;
  }

  /** Throws `config_invalid`, `config_unsafe` or `storage_failed`. */
  static async open(options: LiveSettingsOptions): Promise<LiveSettings> {
    const text = readSettingsText(options.file);
    return new LiveSettings(
      options,
      text,
      resolveSettings({ ...options, file: await read(text, options.file) }),
    );
  }

  get current(): Settings {
    return this.#current;
  }

  get sources(): Resolved["sources"] {
    return this.#resolved.sources;
  }

  /** What is wrong with the file, and what in it waits for a restart. */
  get problems(): Problem[] {
    const waiting = knobNames.filter(
      (name) => !Bun.deepEquals(this.#current[name], this.#resolved.settings[name]),
    );
    return [
      ...(this.#problem === undefined ? [] : [this.#problem]),
      ...waiting.map((name) => ({
        code: "restart_needed",
        message: `${name} is ${JSON.stringify(this.#resolved.settings[name])} now (${sourceText(this.sources[name], this.#options.file)}), and the daemon runs with ${JSON.stringify(this.#current[name])}`,
        hint: "It takes effect after claudemesh daemon restart.",
      })),
    ];
  }

  onChange(listener: SettingsListener): void {
    this.#listeners.push(listener);
  }

  /** Looks at the file; resolves when what it says has taken effect. Never rejects. */
  reload(): Promise<void> {
    this.#isStale = true;
    this.#reading ??= this.#readWhileStale().finally(() => {
      this.#reading = undefined;
    });
    return this.#reading;
  }

  async #readWhileStale(): Promise<void> {
    while (this.#isStale) {
      this.#isStale = false;
      await this.#look();
    }
  }

  async #look(): Promise<void> {
    const { file, log } = this.#options;
    try {
      const text = readSettingsText(file);
      if (text !== this.#text || this.#problem !== undefined) {
        this.#take(resolveSettings({ ...this.#options, file: await read(text, file) }));
      }
      this.#text = text;
      this.#problem = undefined;
    } catch (error) {
      const { code, message, hint, details } = asMeshError(error);
      if (this.#problem?.message !== message) {
        // What stands there is shown to whoever asks for the problem; a log is read by others, and it may be anything.
        const { line, column } = details;
        const where =
          line === undefined ? message : `${file}:${line}:${column}; claudemesh daemon status says what`;
        log("error", code, { error: where });
      }
      this.#problem = { code, message, ...(hint === undefined ? {} : { hint }) };
    }
  }

  #take(resolved: Resolved): void {
    const isOther = (name: KnobName) =>
      !Bun.deepEquals(this.#current[name], resolved.settings[name]) && knobOf(name).live;
    const changed = knobNames.filter(isOther);
    this.#resolved = resolved;
    if (changed.length === 0) return;
    const values = Object.fromEntries(changed.map((name) => [name, resolved.settings[name]]));
    this.#current = { ...this.#current, ...values };
    this.#options.log("info", "settings_changed", { settings: values });
    for (const listener of this.#listeners) listener(changed);
  }
}

const read = async (text: string | undefined, file: string): Promise<FileValues | undefined> =>
  text === undefined ? undefined : checkDocument(await parseDocument(text, file), file);
