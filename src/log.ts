/**
 * The log of a server: one JSON object a line on standard error. Never bodies, tokens, keys or ciphertext; who logs
 * picks the fields one by one and passes no frame or row on.
 */
import { isoTime } from "~/clock";

export type LogLevel = "debug" | "info" | "warn" | "error";

export type Log = (level: LogLevel, event: string, fields?: Record<string, unknown>) => void;

export const openLog =
  (now: () => number): Log =>
  (level, event, fields = {}) => {
    if (level === "debug") return;
    process.stderr.write(`${JSON.stringify({ time: isoTime(now()), level, event, ...fields })}\n`);
  };
