import { resolve } from "node:path";
import { usageError, wholeNumber } from "~/cli/argv";
import { findBroker } from "~/cli/broker/record";
import { defineCommand, type Host } from "~/cli/command";
import { sayHowToUseBroker } from "~/cli/next-step";
import { unlessClosed } from "~/cli/output";
import { eventually, startDetached, tellWork } from "~/cli/server-process";
import { MeshError } from "~/errors";
import { connectionPolicies } from "~/wire/broker";
import { dedupeRetentionDaysMin, historyDaysDefault, retentionDaysMax } from "~/wire/limits";
import { brokerPaths } from "~/wire/paths";

const readyTimeoutMs = 15_000;

export const brokerUp = defineCommand({
  name: "broker up",
  description: "start the embedded broker; returns when it answers",
  args: {
    foreground: { type: "boolean", description: "stay in this terminal, log to standard error" },
    host: {
      type: "string",
      valueHint: "ADDR",
      default: "127.0.0.1",
      description: "address to listen on; off loopback it wants TLS, or --behind-proxy",
    },
    port: {
      type: "string",
      valueHint: "N",
      default: "7900",
      description: "port; 0 takes any free one",
      parse: wholeNumber(0, 65_535),
    },
    data: {
      type: "string",
      valueHint: "DIR",
      completes: "directory",
      description: "its data directory (default: CLAUDEMESH_BROKER_DATA, else broker/ beside config.json)",
    },
    "tls-cert": {
      type: "string",
      valueHint: "FILE",
      completes: "file",
      description: "certificate, PEM; with --tls-key",
    },
    "tls-key": { type: "string", valueHint: "FILE", completes: "file", description: "its private key, PEM" },
    "behind-proxy": { type: "boolean", description: "a proxy in front of it does TLS" },
    connections: {
      type: "enum",
      options: connectionPolicies,
      default: "prefer_newest",
      description: "what becomes of a member's connection when the same member connects again",
    },
    "dedupe-days": {
      type: "string",
      valueHint: "N",
      description: `days for which message ids are remembered, ${dedupeRetentionDaysMin} at least (default: for good)`,
      parse: wholeNumber(dedupeRetentionDaysMin, retentionDaysMax),
    },
    "history-days": {
      type: "string",
      valueHint: "N",
      default: String(historyDaysDefault),
      description: "days for which sealed contents are kept that nobody waits for any more",
      parse: wholeNumber(1, retentionDaysMax),
    },
  },
  notes:
    "At first start it writes the admin token to admin-token in its data directory (0600). A broker that already runs is left as it is: the command says so and ends with 0.",
  exits: [4, 7, 130],
  examples: [
    "claudemesh broker up",
    "claudemesh broker up --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem",
  ],
  async run(args, host) {
    const dataDir = resolve(args.data ?? host.paths.brokerDir);
    const tls = tlsFiles(args["tls-cert"], args["tls-key"]);
    if (tls !== undefined && args["behind-proxy"]) throw usageError("--behind-proxy contradicts --tls-cert");
    const running = await findBroker(dataDir);
    if (running !== undefined) return await say(host, dataDir, running, false);
    if (args.foreground) {
      const { runBroker } = await import("~/broker/serve");
      await runBroker(
        {
          dataDir,
          host: args.host,
          port: args.port,
          ...(tls === undefined ? {} : { tls }),
          behindProxy: args["behind-proxy"],
          connectionPolicy: args.connections,
          ...(args["dedupe-days"] === undefined ? {} : { dedupeDays: args["dedupe-days"] }),
          historyDays: args["history-days"],
          onWork: tellWork(host),
        },
        host.interrupted,
        ({ url }) => void unlessClosed(say(host, dataDir, { pid: process.pid, url }, true, args.foreground)),
      );
      return;
    }
    const { log } = brokerPaths(dataDir);
    let pid: number;
    try {
      pid = await startDetached({
        what: "the broker",
        args: [
          ...["broker", "up", "--host", args.host, "--port", String(args.port), "--data", dataDir],
          ...(tls === undefined ? [] : ["--tls-cert", tls.certFile, "--tls-key", tls.keyFile]),
          ...(args["behind-proxy"] ? ["--behind-proxy"] : []),
          ...["--connections", args.connections, "--history-days", String(args["history-days"])],
          ...(args["dedupe-days"] === undefined ? [] : ["--dedupe-days", String(args["dedupe-days"])]),
        ],
        logFile: log,
        host,
        timeoutMs: readyTimeoutMs,
      });
    } catch (error) {
      if (!(error instanceof MeshError) || error.code !== "already_running") throw error;
      // Somebody else started one at the same moment; it may still be on its way up.
      const other = await eventually(() => findBroker(dataDir), readyTimeoutMs);
      if (other === undefined) throw error;
      return await say(host, dataDir, other, false);
    }
    const started = await findBroker(dataDir);
    if (started === undefined) {
      throw new MeshError("broker_unreachable", "the broker was ready and does not answer any more", {
        hint: `See its log: ${log}`,
      });
    }
    // What we started may itself have found one that was quicker.
    await say(host, dataDir, started, started.pid === pid);
  },
});

function tlsFiles(
  certFile: string | undefined,
  keyFile: string | undefined,
): { certFile: string; keyFile: string } | undefined {
  if (certFile === undefined && keyFile === undefined) return undefined;
  if (certFile === undefined || keyFile === undefined)
    throw usageError("--tls-cert and --tls-key go together");
  return { certFile: resolve(certFile), keyFile: resolve(keyFile) };
}

async function say(
  host: Host,
  dataDir: string,
  { pid, url }: { pid: number; url: string },
  started: boolean,
  isServer = false,
): Promise<void> {
  const { log } = brokerPaths(dataDir);
  await host.out.answer(
    { pid, url, data: dataDir, started },
    () => `the broker is up${started ? "" : " already"}: ${url}, pid ${pid} (log: ${log})`,
  );
  // A server whose standard error is its log has nothing but log lines there.
  if (!(isServer && host.out.json)) await sayHowToUseBroker(host, dataDir, url);
}
