/**
 * The way to each broker, one step after the other: its name, a connection, its certificate, its health. The daemon's own link is
 * left alone; what it says of that link stands beside this (daemon.ts).
 */
import { lookup } from "node:dns/promises";
import { connect, isIP } from "node:net";
import { connect as connectTls } from "node:tls";
import * as v from "valibot";
import { type Finding, fail, pass, warn } from "~/cli/doctor/finding";
import type { MeshFact } from "~/cli/doctor/membership";
import { within } from "~/cli/doctor/probe";
import { systemClock } from "~/clock";
import { messageOf, systemCodeOf } from "~/errors";
import { boundedText } from "~/link/http";
import { shownUrl } from "~/wire/fault";
import { brokerPortDefault, certificateDaysLow, doctorProbeMsMax } from "~/wire/limits";
import { BrokerHealth, httpUrlOf } from "~/wire/membership";

export type Step<T> = { ok: true; value: T } | { ok: false; why: string };

export interface CertificateFact {
  /** The chain leads to an authority that is trusted here, and names this host. */
  isTrusted: boolean;
  /** In OpenSSL's words, when it is not. */
  fault: string | undefined;
  /** NaN when it does not say. */
  validToMs: number;
}

export interface BrokerFacts {
  /** Without credentials. */
  shownUrl: string;
  slugs: readonly string[];
  host: string;
  port: number;
  /** The addresses; undefined when the URL holds one itself. */
  names: Step<readonly string[]> | undefined;
  connection: Step<undefined> | undefined;
  certificate: Step<CertificateFact> | undefined;
  health: Step<HealthFact> | undefined;
}

export interface HealthFact {
  status: number;
  /** Undefined when it does not answer like a broker of claudemesh. */
  version: string | undefined;
  problems: readonly string[];
  /** The broker's clock minus ours; undefined without a Date header. */
  skewMs: number | undefined;
}

export async function gatherBrokers(meshes: readonly MeshFact[]): Promise<BrokerFacts[]> {
  const byUrl = Map.groupBy(meshes, ({ brokerUrl }) => brokerUrl);
  return await Promise.all(
    [...byUrl].map(([url, those]) =>
      gatherBroker(
        url,
        those.map(({ slug }) => slug),
      ),
    ),
  );
}

async function gatherBroker(brokerUrl: string, slugs: readonly string[]): Promise<BrokerFacts> {
  const url = new URL(brokerUrl);
  const host = url.hostname.replace(/^\[(.*)\]$/, "$1");
  const isTls = url.protocol === "wss:";
  const port = url.port === "" ? (isTls ? 443 : 80) : Number(url.port);
  const facts: BrokerFacts = {
    shownUrl: shownUrl(brokerUrl),
    slugs,
    host,
    port,
    names: undefined,
    connection: undefined,
    certificate: undefined,
    health: undefined,
  };
  if (isIP(host) === 0) {
    facts.names = await resolveName(host);
    if (!facts.names.ok) return facts;
  }
  facts.connection = await connects(host, port);
  if (!facts.connection.ok) return facts;
  // Both at once: a certificate that is not trusted is told by the first, and why that ends it by the second.
  const [certificate, health] = await Promise.all([
    isTls ? certificateOf(host, port) : undefined,
    askBroker(brokerUrl),
  ]);
  return { ...facts, certificate, health };
}

const tooLate = (): { ok: false; why: string } => ({
  ok: false,
  why: `no answer within ${doctorProbeMsMax / 1000} s`,
});

const failed = (error: unknown): { ok: false; why: string } => ({
  ok: false,
  why: systemCodeOf(error) ?? messageOf(error),
});

async function resolveName(host: string): Promise<Step<readonly string[]>> {
  const ask = async (): Promise<Step<readonly string[]>> => {
    try {
      const found = await lookup(host, { all: true });
      return { ok: true, value: found.map(({ address }) => address) };
    } catch (error) {
      return failed(error);
    }
  };
  return await within(doctorProbeMsMax, ask, tooLate);
}

const connects = (host: string, port: number): Promise<Step<undefined>> =>
  new Promise((resolve) => {
    const socket = connect({ host, port });
    const end = (step: Step<undefined>): void => {
      timer.cancel();
      socket.destroy();
      resolve(step);
    };
    const timer = systemClock.after(doctorProbeMsMax, () => end(tooLate()));
    socket.once("connect", () => end({ ok: true, value: undefined }));
    socket.once("error", (error) => end(failed(error)));
  });

/** Looks at the certificate, trusted or not; nothing is said over the connection. */
const certificateOf = (host: string, port: number): Promise<Step<CertificateFact>> =>
  new Promise((resolve) => {
    const name = isIP(host) === 0 ? { servername: host } : {};
    const socket = connectTls({ host, port, ...name, rejectUnauthorized: false });
    const end = (step: Step<CertificateFact>): void => {
      timer.cancel();
      socket.destroy();
      resolve(step);
    };
    const timer = systemClock.after(doctorProbeMsMax, () => end(tooLate()));
    socket.once("error", (error) => end(failed(error)));
    socket.once("secureConnect", () => {
      const { valid_to } = socket.getPeerCertificate();
      // The types of Node and what is really there differ: a code, an error, or null.
      const fault: unknown = socket.authorizationError;
      const isTrusted = socket.authorized;
      end({
        ok: true,
        value: {
          isTrusted,
          fault: isTrusted ? undefined : (systemCodeOf(fault) ?? messageOf(fault)),
          validToMs: Date.parse(valid_to),
        },
      });
    });
  });

async function askBroker(brokerUrl: string): Promise<Step<HealthFact>> {
  const startedMs = systemClock.now();
  try {
    const response = await fetch(httpUrlOf(brokerUrl, "/health"), {
      signal: AbortSignal.timeout(doctorProbeMsMax),
      redirect: "manual",
    });
    const midwayMs = (startedMs + systemClock.now()) / 2;
    const dateMs = Date.parse(response.headers.get("date") ?? "");
    const parsed = v.safeParse(v.pipe(v.string(), v.parseJson(), BrokerHealth), await boundedText(response));
    const { version, problems } = parsed.success ? parsed.output : { version: undefined, problems: [] };
    return {
      ok: true,
      value: {
        status: response.status,
        version,
        problems: problems.map(({ message }) => message),
        // The header has whole seconds, cut off.
        skewMs: Number.isNaN(dateMs) ? undefined : Math.round(dateMs + 500 - midwayMs),
      },
    };
  } catch (error) {
    return error instanceof DOMException && error.name === "TimeoutError" ? tooLate() : failed(error);
  }
}

// ── Judgement ───────────────────────────────────────────────────────────────────────────────────────────────────────

export interface BrokerContext {
  nowMs: number;
  /** Meshes that the daemon is connected to: then what fails here fails for this process alone. */
  openMeshes: ReadonlySet<string>;
}

export function judgeBroker(facts: BrokerFacts, { nowMs, openMeshes }: BrokerContext): Finding[] {
  const { shownUrl: url, slugs, host, port, names, connection, certificate, health } = facts;
  const isConnected = slugs.every((slug) => openMeshes.has(slug));
  const unreachable = (check: string, message: string, fix: string): Finding =>
    isConnected
      ? warn(check, `${message}, from this process; the daemon is connected all the same`, fix)
      : fail(check, message, fix);
  const whose = `the broker of ${slugs.join(" and ")}`;
  const findings: Finding[] = [];
  if (names !== undefined) {
    if (!names.ok) {
      const fix =
        "Check the network and the name server (resolvectl status, or /etc/resolv.conf); the name: claudemesh mesh list";
      return [unreachable("dns", `${host}, ${whose}, is not found (${names.why})`, fix)];
    }
    findings.push(pass("dns", `${host} is ${names.value.join(", ")}`));
  }
  if (connection?.ok === false) {
    const fix = isLoopback(host)
      ? `claudemesh broker up${port === brokerPortDefault ? "" : ` --port ${port}`}`
      : `See that the broker runs (there: claudemesh broker status) and that no firewall is between: nc -vz ${host} ${port}`;
    return [
      ...findings,
      unreachable("broker", `${whose} does not take connections on ${host}:${port} (${connection.why})`, fix),
    ];
  }
  if (certificate !== undefined) findings.push(judgeCertificate(certificate, { url, nowMs, unreachable }));
  const isUntrusted = certificate?.ok === true && !certificate.value.isTrusted;
  if (health !== undefined && !isUntrusted) findings.push(judgeHealth(health, { url, whose, unreachable }));
  return findings;
}

const isLoopback = (host: string): boolean =>
  host === "localhost" || host === "::1" || host.startsWith("127.");

type Unreachable = (check: string, message: string, fix: string) => Finding;

function judgeCertificate(
  certificate: Step<CertificateFact>,
  { url, nowMs, unreachable }: { url: string; nowMs: number; unreachable: Unreachable },
): Finding {
  if (!certificate.ok) {
    return unreachable(
      "tls",
      `${url} does not speak TLS (${certificate.why})`,
      "Check the port; without TLS the URL begins with ws://",
    );
  }
  const { isTrusted, fault, validToMs } = certificate.value;
  const day = Number.isNaN(validToMs) ? "an unknown day" : new Date(validToMs).toISOString().slice(0, 10);
  if (validToMs < nowMs) {
    return unreachable(
      "tls",
      `the certificate of ${url} expired on ${day}`,
      "Renew it on the broker's host, and restart the broker: claudemesh broker down, then up",
    );
  }
  if (!isTrusted) {
    return unreachable(
      "tls",
      `the certificate of ${url} is not trusted here (${fault})`,
      fault === "ERR_TLS_CERT_ALTNAME_INVALID" || fault === "HOSTNAME_MISMATCH"
        ? "It is for another name: use that name in the broker's URL, or get a certificate for this one."
        : "export NODE_EXTRA_CA_CERTS=/path/to/its-authority.pem; claudemesh daemon restart",
    );
  }
  const days = Math.floor((validToMs - nowMs) / 86_400_000);
  return days < certificateDaysLow
    ? warn(
        "tls",
        `the certificate of ${url} expires in ${days} days, on ${day}`,
        "Renew it on the broker's host, and restart the broker: claudemesh broker down, then up",
      )
    : pass("tls", `the certificate of ${url} is trusted, until ${day}`);
}

function judgeHealth(
  health: Step<HealthFact>,
  { url, whose, unreachable }: { url: string; whose: string; unreachable: Unreachable },
): Finding {
  if (!health.ok) {
    return unreachable(
      "broker",
      `${whose} (${url}) took the connection and did not answer (${health.why})`,
      "On its host: claudemesh broker status",
    );
  }
  const { status, version, problems } = health.value;
  if (version === undefined) {
    return warn(
      "broker",
      `what answers at ${url} (HTTP ${status}) is not a broker of claudemesh, or a proxy that hides its /health`,
      "claudemesh mesh list shows the broker's URL",
    );
  }
  const [first, ...more] = problems;
  if (first !== undefined) {
    const others = more.length === 0 ? "" : `, and ${more.length} more`;
    return warn("broker", `${whose} says: ${first}${others}`, "On its host: claudemesh broker status");
  }
  return pass("broker", `${whose} answers at ${url}: version ${version}`);
}
