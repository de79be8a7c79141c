/**
 * Which process serves a broker's data directory. Its record (broker.json) may be left over from one that was killed, so
 * a broker counts as running only when something at the recorded address answers as one that is as old as the record.
 */
import { readFileSync } from "node:fs";
import * as v from "valibot";
import { systemClock } from "~/clock";
import { MeshError, systemCodeOf } from "~/errors";
import { BrokerHealth, BrokerRecord, httpUrlOf } from "~/wire/membership";
import { brokerPaths } from "~/wire/paths";

export interface LiveBroker {
  pid: number;
  url: string;
  health: v.InferOutput<typeof BrokerHealth>;
}

const healthTimeoutMs = 3_000;
/** Between the start by the record and the start by the uptime, with a clock that may be set meanwhile. */
const startDifferenceMsMax = 10_000;

/** The broker of this data directory; undefined when none runs. Throws `storage_failed` for an unreadable record. */
export async function findBroker(dataDir: string): Promise<LiveBroker | undefined> {
  const path = brokerPaths(dataDir).record;
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    if (systemCodeOf(error) === "ENOENT") return undefined;
    throw new MeshError("storage_failed", `cannot read ${path} (${systemCodeOf(error) ?? error})`, {
      hint: "Check who owns the file and its permissions.",
      cause: error,
    });
  }
  const record = v.safeParse(v.pipe(v.string(), v.parseJson(), BrokerRecord), text);
  if (!record.success) return undefined;
  const health = await askBrokerHealth(record.output.url);
  if (health === undefined) return undefined;
  const startedMs = systemClock.now() - health.uptime_s * 1000;
  const { pid, url, started_at } = record.output;
  if (Math.abs(startedMs - Date.parse(started_at)) > startDifferenceMsMax) return undefined;
  return { pid, url, health };
}

/** Undefined when nothing there answers like a broker. */
export async function askBrokerHealth(url: string): Promise<v.InferOutput<typeof BrokerHealth> | undefined> {
  try {
    const response = await fetch(httpUrlOf(url, "/health"), {
      signal: AbortSignal.timeout(healthTimeoutMs),
      redirect: "error",
      // Asked from its own host by an address that its certificate need not name; nothing secret is sent.
      tls: { rejectUnauthorized: false },
    });
    const parsed = v.safeParse(BrokerHealth, await response.json());
    return parsed.success ? parsed.output : undefined;
  } catch {
    return undefined; // Nothing listens there, or what does speaks something else: either way it is no broker.
  }
}
