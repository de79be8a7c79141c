/**
 * The log of a server: one JSON object a line on standard error. Never bodies, tokens, keys or ciphertext; who logs
 * picks the fields one by one and passes no frame or row on.
 */
import { type Clock, isoTime } from "~/clock";

export type LogLevel = "debug" | "info" | "warn" | "error";
export type LogFields = Record<string, unknown>;

export type Log = (level: LogLevel, message: string, fields?: LogFields) => void;

/** A log that writes to standard error and leaves `debug` out. */
export const stderrLog =
  (clock: Clock): Log =>
  (level, message, fields = {}) => {
    if (level === "debug") return;
    process.stderr.write(`${JSON.stringify({ time: isoTime(clock.now()), level, message, ...fields })}\n`);
  };
