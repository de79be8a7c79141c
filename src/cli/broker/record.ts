/**
 * Which process serves a broker's data directory. Its record (broker.json) may be left over from one that was killed, so
 * a broker counts as running only when the one at the recorded address says that it is the one which wrote the record.
 */
import { readFileSync } from "node:fs";
import * as v from "valibot";
import { MeshError, systemCodeOf } from "~/errors";
import { BrokerHealth, BrokerRecord, httpUrlOf } from "~/wire/membership";
import { brokerPaths } from "~/wire/paths";

export interface LiveBroker {
  pid: number;
  url: string;
  health: v.InferOutput<typeof BrokerHealth>;
}

const healthTimeoutMs = 3_000;

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
  const { pid, url, run_id } = record.output;
  const health = await askBrokerHealth(url);
  return health?.run_id === run_id ? { pid, url, health } : undefined;
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
