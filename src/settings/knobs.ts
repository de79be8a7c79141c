/**
 * Every knob of the daemon, once: its name as `config.toml` and `claudemesh config` spell it (`section.key`, the unit at the end),
 * its kind, default, bounds, and what it does in a sentence; and the one check that says whether a value fits. What is not here
 * is a bound of the protocol (wire/limits.ts).
 */
import { logLevels } from "~/log";
import {
  answerTimeoutMs,
  directoryWaitMs,
  ipcRequestsAtWorkMax,
  ipcRequestsWaitingMax,
  ipcStreamsMax,
  laneWaitingMsMax,
  logFileBytesMax,
  logFileDaysMax,
  logFilesKept,
  retryDelayMsMax,
  retryDelayMsMin,
  sendWindowBytesMax,
  sendWindowMessagesMax,
  stopGraceMs,
  streamBufferBytesMax,
  streamCommentEveryMs,
  streamStallMs,
  tcpPortDefault,
  tokenGraceMs,
  unrecognisedAttemptsMax,
} from "~/wire/limits";

interface Described {
  /** What it does, as the end of a sentence that its name begins. */
  about: string;
  /** Takes effect in a running daemon, without a new link to any broker. */
  live: boolean;
}
interface FlagKnob extends Described {
  kind: "flag";
  default: boolean;
}
interface NumberKnob extends Described {
  kind: "number";
  unit: Unit;
  /** Null: there is no value of its own, and `about` says what holds then. */
  default: number | null;
  min: number;
  max: number;
}
interface ChoiceKnob extends Described {
  kind: "choice";
  default: string;
  options: readonly string[];
}
interface ListKnob extends Described {
  kind: "list";
  default: readonly string[];
  entriesMax: number;
  /** Whether an entry will do, and in words what would. */
  entry: { accepts(text: string): boolean; expected: string };
}
export type Knob = FlagKnob | NumberKnob | ChoiceKnob | ListKnob;

type Unit =
  | "milliseconds"
  | "seconds"
  | "minutes"
  | "hours"
  | "days"
  | "bytes"
  | "messages"
  | "requests"
  | "streams"
  | "attempts"
  | "files"
  | "port";

const dayHours = 24;

/** As a browser writes it: in lower case, without a path, without the port that goes without saying. */
const isOrigin = (text: string): boolean => /^https?:/.test(text) && URL.parse(text)?.origin === text;

export const knobs = {
  "daemon.tcp": {
    kind: "flag",
    default: true,
    live: false,
    about: "serves the local API on 127.0.0.1 as well",
  },
  "daemon.tcp_port": {
    kind: "number",
    unit: "port",
    default: tcpPortDefault,
    min: 0,
    max: 65_535,
    live: false,
    about: "is the port for it; 0 takes any that is free",
  },
  "daemon.public_health": {
    kind: "flag",
    default: false,
    live: true,
    about: 'shows {"ok": true} over TCP to callers without a token',
  },
  "daemon.allowed_origins": {
    kind: "list",
    default: [],
    entriesMax: 64,
    entry: { accepts: isOrigin, expected: "an origin such as http://localhost:3000" },
    live: true,
    about: "are the web origins that may call the local API, with a token",
  },
  "daemon.host_policy": {
    kind: "choice",
    default: "refuse",
    options: ["refuse", "warn", "allow"],
    live: false,
    about: "says what becomes of a start on hardware that these files did not come from",
  },
  "daemon.stop_grace_s": {
    kind: "number",
    unit: "seconds",
    default: stopGraceMs / 1000,
    min: 0,
    max: 300,
    live: true,
    about: "is how long requests at work may take when the daemon stops",
  },
  "api.requests_at_work_max": {
    kind: "number",
    unit: "requests",
    default: ipcRequestsAtWorkMax,
    min: 1,
    max: 4096,
    live: true,
    about: "bounds the requests at work at a time",
  },
  "api.requests_waiting_max": {
    kind: "number",
    unit: "requests",
    default: ipcRequestsWaitingMax,
    min: 1,
    max: 65_536,
    live: true,
    about: "bounds the requests that wait (?wait=…) at a time",
  },
  "api.streams_max": {
    kind: "number",
    unit: "streams",
    default: ipcStreamsMax,
    min: 1,
    max: 4096,
    live: true,
    about: "bounds the event streams at a time",
  },
  "api.stream_buffer_bytes_max": {
    kind: "number",
    unit: "bytes",
    default: streamBufferBytesMax,
    min: 65_536,
    max: 1_073_741_824,
    live: true,
    about: "is what may wait for a reader of events before it is cut off",
  },
  "api.stream_comment_s": {
    kind: "number",
    unit: "seconds",
    default: streamCommentEveryMs / 1000,
    min: 1,
    // Readers take a stream for dead that was silent for three times the default.
    max: (2 * streamCommentEveryMs) / 1000,
    live: true,
    about: "is how often an event stream shows that it lives",
  },
  "api.stream_stall_s": {
    kind: "number",
    unit: "seconds",
    default: streamStallMs / 1000,
    min: 1,
    max: 3600,
    live: true,
    about: "is how long a reader of events may take nothing before it is cut off",
  },
  "api.directory_wait_ms": {
    kind: "number",
    unit: "milliseconds",
    default: directoryWaitMs,
    min: 0,
    max: 60_000,
    live: true,
    about: "is how long a send waits for the member list of a new mesh",
  },
  "api.token_grace_s": {
    kind: "number",
    unit: "seconds",
    default: tokenGraceMs / 1000,
    min: 0,
    max: 86_400,
    live: true,
    about: "is how long the old token is taken after daemon rotate-token",
  },
  "delivery.window_messages_max": {
    kind: "number",
    unit: "messages",
    default: sendWindowMessagesMax,
    min: 1,
    max: 4096,
    live: true,
    about: "bounds the messages on their way to one broker",
  },
  "delivery.window_bytes_max": {
    kind: "number",
    unit: "bytes",
    default: sendWindowBytesMax,
    min: 65_536,
    max: 67_108_864,
    live: true,
    about: "bounds their sealed bytes",
  },
  "delivery.answer_timeout_s": {
    kind: "number",
    unit: "seconds",
    default: answerTimeoutMs / 1000,
    min: 1,
    max: 600,
    live: true,
    about: "is how long a broker may take to answer a message",
  },
  "delivery.retry_delay_ms_min": {
    kind: "number",
    unit: "milliseconds",
    default: retryDelayMsMin,
    min: 10,
    max: 60_000,
    live: true,
    about: "is the first step of the backoff after a refusal that will pass",
  },
  "delivery.retry_delay_s_max": {
    kind: "number",
    unit: "seconds",
    default: retryDelayMsMax / 1000,
    min: 1,
    max: 3600,
    live: true,
    about: "is its last step",
  },
  "delivery.unrecognised_attempts_max": {
    kind: "number",
    unit: "attempts",
    default: unrecognisedAttemptsMax,
    min: 1,
    max: 1000,
    live: true,
    about: "ends a message that a broker refused this often for reasons nobody knows",
  },
  "delivery.max_age_h": {
    kind: "number",
    unit: "hours",
    default: null,
    min: 1,
    max: 3650 * dayHours,
    live: true,
    about:
      "ends a message at the head of its lane that is older; without a value it follows from how long the broker remembers ids",
  },
  "delivery.waiting_warning_minutes": {
    kind: "number",
    unit: "minutes",
    default: laneWaitingMsMax / 60_000,
    min: 1,
    max: 10_080,
    live: true,
    about: "is when a waiting message becomes a problem in daemon status",
  },
  "storage.retention_days": {
    kind: "number",
    unit: "days",
    default: 30,
    min: 1,
    max: 36_500,
    live: true,
    about: "is how long the contents of finished and read messages are kept; ids stay for good",
  },
  "storage.upkeep_every_h": {
    kind: "number",
    unit: "hours",
    default: dayHours,
    min: 1,
    max: 30 * dayHours,
    live: true,
    about: "is how often the daemon clears what is older",
  },
  "log.level": {
    kind: "choice",
    default: "info",
    options: logLevels,
    live: true,
    about: "is the least that is logged",
  },
  "log.file_bytes_max": {
    kind: "number",
    unit: "bytes",
    default: logFileBytesMax,
    min: 65_536,
    max: 1_073_741_824,
    live: true,
    about: "begins a new log file when the old one has grown beyond it",
  },
  "log.file_days_max": {
    kind: "number",
    unit: "days",
    default: logFileDaysMax,
    min: 1,
    max: 365,
    live: true,
    about: "begins a new log file when the old one is older",
  },
  "log.files_kept": {
    kind: "number",
    unit: "files",
    default: logFilesKept,
    min: 0,
    max: 100,
    live: true,
    about: "is how many old log files stay",
  },
  "link.required_features": {
    kind: "list",
    default: [],
    entriesMax: 64,
    entry: {
      accepts: (text) => /^[a-z][a-z0-9_]{0,63}$/.test(text),
      expected: "the name of a broker feature, such as members",
    },
    live: true,
    about: "are features without which a broker is refused",
  },
} as const satisfies Record<string, Knob>;

export type KnobName = keyof typeof knobs;

type ValueOf<K extends Knob> = K extends { kind: "flag" }
  ? boolean
  : K extends { kind: "number"; default: null }
    ? number | null
    : K extends { kind: "number" }
      ? number
      : K extends { kind: "choice"; options: readonly (infer Option)[] }
        ? Option
        : readonly string[];

/** A value for every knob. */
export type Settings = { readonly [Name in KnobName]: ValueOf<(typeof knobs)[Name]> };

const defaults: Record<string, unknown> = Object.fromEntries(
  Object.entries(knobs).map(([name, knob]) => [name, knob.default]),
);

/** What holds when nobody says otherwise. */
export const defaultSettings = defaults as Settings;

export type KnobValue = boolean | number | string | readonly string[] | null;

export const knobNames = Object.keys(knobs).filter((name): name is KnobName => isKnobName(name));

export function isKnobName(name: string): name is KnobName {
  return Object.hasOwn(knobs, name);
}

/** The knob as one of its kinds, whichever it is. */
export const knobOf = (name: KnobName): Knob => knobs[name];

/** The words before the dots: the sections of `config.toml`. */
export const sections = [...new Set(knobNames.map((name) => name.slice(0, name.indexOf("."))))];

export const unitOf = (knob: Knob): Unit | undefined => (knob.kind === "number" ? knob.unit : undefined);

/** What will do as a value, in words: `a whole number from 1 to 600 (seconds)`. */
export function expectationOf(knob: Knob): string {
  switch (knob.kind) {
    case "flag":
      return "true or false";
    case "number":
      return `a whole number from ${knob.min} to ${knob.max}${knob.unit === "port" ? "" : ` (${knob.unit})`}`;
    case "choice":
      return knob.options.map((option) => `"${option}"`).join(" or ");
    case "list":
      return `a list of at most ${knob.entriesMax} texts, each ${knob.entry.expected}`;
  }
}

/** Whether a value fits the knob: its type, its bounds, its form. */
export function fits(knob: Knob, value: unknown): value is Exclude<KnobValue, null> {
  switch (knob.kind) {
    case "flag":
      return typeof value === "boolean";
    case "number":
      return typeof value === "number" && Number.isInteger(value) && value >= knob.min && value <= knob.max;
    case "choice":
      return typeof value === "string" && knob.options.includes(value);
    case "list":
      return (
        Array.isArray(value) &&
        value.length <= knob.entriesMax &&
        value.every((entry) => typeof entry === "string" && knob.entry.accepts(entry))
      );
  }
}
