/**
 * Every knob of the daemon, once: its name as `config.toml` and `claudemesh config` spell it (`section.key`, the unit at the end),
 * its kind, default, bounds, and what it does in a sentence. What is not here is a bound of the protocol (wire/limits.ts).
 */
import {
  answerTimeoutMs,
  directoryWaitMs,
  ipcRequestsAtWorkMax,
  ipcRequestsWaitingMax,
  ipcStreamsMax,
  laneWaitingMsMax,
  retryDelayMsMax,
  retryDelayMsMin,
  sendWindowBytesMax,
  sendWindowMessagesMax,
  stopGraceMs,
  streamBufferBytesMax,
  streamCommentEveryMs,
  tcpPortDefault,
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
  /** What each entry must look like, as a regular expression and in words. */
  entry: { pattern: RegExp; expected: string };
}
export type Knob = FlagKnob | NumberKnob | ChoiceKnob | ListKnob;

const dayHours = 24;

export const knobs = {
  "daemon.tcp": {
    kind: "flag",
    default: true,
    live: false,
    about: "serves the local API on 127.0.0.1 as well",
  },
  "daemon.tcp_port": {
    kind: "number",
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
    entry: {
      pattern: /^https?:\/\/[a-z0-9.-]+(:\d{1,5})?$/,
      expected: "an origin expected, such as http://localhost:3000",
    },
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
    default: stopGraceMs / 1000,
    min: 0,
    max: 300,
    live: true,
    about: "is how long requests at work may take when the daemon stops",
  },
  "api.requests_at_work_max": {
    kind: "number",
    default: ipcRequestsAtWorkMax,
    min: 1,
    max: 4096,
    live: true,
    about: "bounds the requests at work at a time",
  },
  "api.requests_waiting_max": {
    kind: "number",
    default: ipcRequestsWaitingMax,
    min: 1,
    max: 65_536,
    live: true,
    about: "bounds the requests that wait (?wait=…) at a time",
  },
  "api.streams_max": {
    kind: "number",
    default: ipcStreamsMax,
    min: 1,
    max: 4096,
    live: true,
    about: "bounds the event streams at a time",
  },
  "api.stream_buffer_bytes_max": {
    kind: "number",
    default: streamBufferBytesMax,
    min: 65_536,
    max: 1_073_741_824,
    live: true,
    about: "is what may wait for a reader of events before it is cut off",
  },
  "api.stream_comment_s": {
    kind: "number",
    default: streamCommentEveryMs / 1000,
    min: 1,
    max: 3600,
    live: true,
    about: "is how often an event stream shows that it lives",
  },
  "api.directory_wait_ms": {
    kind: "number",
    default: directoryWaitMs,
    min: 0,
    max: 60_000,
    live: true,
    about: "is how long a send waits for the member list of a new mesh",
  },
  "api.token_grace_s": {
    kind: "number",
    default: 60,
    min: 0,
    max: 86_400,
    live: true,
    about: "is how long the old token is taken after daemon rotate-token",
  },
  "delivery.window_messages_max": {
    kind: "number",
    default: sendWindowMessagesMax,
    min: 1,
    max: 4096,
    live: true,
    about: "bounds the messages on their way to one broker",
  },
  "delivery.window_bytes_max": {
    kind: "number",
    default: sendWindowBytesMax,
    min: 65_536,
    max: 67_108_864,
    live: true,
    about: "bounds their sealed bytes",
  },
  "delivery.answer_timeout_s": {
    kind: "number",
    default: answerTimeoutMs / 1000,
    min: 1,
    max: 600,
    live: true,
    about: "is how long a broker may take to answer a message",
  },
  "delivery.retry_delay_ms_min": {
    kind: "number",
    default: retryDelayMsMin,
    min: 10,
    max: 60_000,
    live: true,
    about: "is the first step of the backoff after a refusal that will pass",
  },
  "delivery.retry_delay_s_max": {
    kind: "number",
    default: retryDelayMsMax / 1000,
    min: 1,
    max: 3600,
    live: true,
    about: "is its last step",
  },
  "delivery.unrecognised_attempts_max": {
    kind: "number",
    default: unrecognisedAttemptsMax,
    min: 1,
    max: 1000,
    live: true,
    about: "ends a message that a broker refused this often for reasons nobody knows",
  },
  "delivery.max_age_h": {
    kind: "number",
    default: null,
    min: 1,
    max: 3650 * dayHours,
    live: true,
    about:
      "ends a message at the head of its lane that is older; without a value it follows from how long the broker remembers ids",
  },
  "delivery.waiting_warning_min": {
    kind: "number",
    default: laneWaitingMsMax / 60_000,
    min: 1,
    max: 10_080,
    live: true,
    about: "is when a waiting message becomes a problem in daemon status",
  },
  "storage.retention_days": {
    kind: "number",
    default: 30,
    min: 1,
    max: 36_500,
    live: true,
    about: "is how long the contents of finished and read messages are kept; ids stay for good",
  },
  "storage.upkeep_every_h": {
    kind: "number",
    default: dayHours,
    min: 1,
    max: 30 * dayHours,
    live: true,
    about: "is how often the daemon clears what is older",
  },
  "log.level": {
    kind: "choice",
    default: "info",
    options: ["debug", "info", "warn", "error"],
    live: true,
    about: "is the least that is logged",
  },
  "log.file_bytes_max": {
    kind: "number",
    default: 10 * 1024 * 1024,
    min: 65_536,
    max: 1_073_741_824,
    live: true,
    about: "begins a new log file when the old one has grown beyond it",
  },
  "log.file_days_max": {
    kind: "number",
    default: 7,
    min: 1,
    max: 365,
    live: true,
    about: "begins a new log file when the old one is older",
  },
  "log.files_kept": {
    kind: "number",
    default: 5,
    min: 0,
    max: 100,
    live: true,
    about: "is how many old log files stay",
  },
  "link.required_features": {
    kind: "list",
    default: [],
    entry: { pattern: /^[a-z][a-z0-9_]{0,63}$/, expected: "the name of a broker feature expected" },
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
