/**
 * The log of a server: one JSON object a line. Never bodies, tokens, keys or ciphertext; who logs picks the fields one by
 * one, passes no frame or row on, and tells errors by `faultOf` (wire/fault.ts). Where the lines go is the caller's business.
 */
import { type Clock, isoTime } from "~/clock";

export const logLevels = ["debug", "info", "warn", "error"] as const;
export type LogLevel = (typeof logLevels)[number];
/** The names that every line has are taken. */
export type LogFields = Record<string, unknown> & { time?: never; level?: never; message?: never };

export type Log = (level: LogLevel, message: string, fields?: LogFields) => void;

/** Longer texts are cut: nobody reads them, and some come from others. */
const textCharsMax = 4000;
/** A line with more than this loses its fields. */
const lineCharsMax = 32_000;

export const isLogged = (level: LogLevel, least: LogLevel): boolean =>
  logLevels.indexOf(level) >= logLevels.indexOf(least);

/** A log that gives each line, with its newline, to `write`. `least` is asked at every line, so that it can be changed. */
export const jsonLog =
  (clock: Clock, write: (line: string) => void, least: () => LogLevel = () => "info"): Log =>
  (level, message, fields = {}) => {
    if (isLogged(level, least())) write(logLine(clock.now(), level, message, fields));
  };

/** Never throws: what cannot be told as JSON is left out, and the line says so. */
export function logLine(nowMs: number, level: LogLevel, message: string, fields: LogFields): string {
  const head = { time: isoTime(nowMs), level, message };
  let line: string | undefined;
  try {
    line = JSON.stringify({ ...head, ...fields }, cut);
  } catch (error) {
    if (!(error instanceof TypeError)) throw error; // A cycle, or a bigint.
  }
  if (line === undefined || line.length > lineCharsMax)
    line = JSON.stringify({ ...head, fields_left_out: true });
  return `${line}\n`;
}

const cut = (_key: string, value: unknown): unknown =>
  typeof value === "string" && value.length > textCharsMax ? `${value.slice(0, textCharsMax)}…` : value;
