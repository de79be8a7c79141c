/** The wall clock: whether it can be right at all, and whether the brokers agree. A broker refuses a host that is a minute off. */
import type { BrokerFacts } from "~/cli/doctor/broker";
import type { FileFact } from "~/cli/doctor/files";
import { type Finding, fail, pass, warn } from "~/cli/doctor/finding";
import { spanText } from "~/cli/text";
import { clockSkewMsLow, helloSkewMsMax } from "~/wire/limits";

export interface ClockFacts {
  nowMs: number;
  platform: NodeJS.Platform;
  files: readonly FileFact[];
  brokers: readonly BrokerFacts[];
}

/** Nothing of ours is older. */
const earliestMs = Date.UTC(2025, 0, 1);
const latestMs = Date.UTC(2100, 0, 1);
/** Files may come from another host whose clock was a little ahead. */
const fileAheadMsMax = 3600_000;

export function judgeClock({ nowMs, platform, files, brokers }: ClockFacts): Finding[] {
  const fix = platform === "darwin" ? "sudo sntp -sS time.apple.com" : "sudo timedatectl set-ntp true";
  const today = new Date(nowMs).toISOString();
  if (nowMs < earliestMs || nowMs > latestMs)
    return [fail("clock", `it says ${today}, which cannot be`, fix)];
  const compared = brokers.flatMap((broker) => {
    const skewMs = broker.health?.ok === true ? broker.health.value.skewMs : undefined;
    return skewMs === undefined ? [] : [{ name: broker.host, skewMs, offMs: Math.abs(skewMs) }];
  });
  const nearest = compared.toSorted((a, b) => a.offMs - b.offMs)[0];
  if (nearest === undefined) return [judgeByFiles(files, nowMs, today, fix)];
  if (nearest.offMs > helloSkewMsMax) {
    return [fail("clock", `${offText(nearest)}: brokers refuse more than ${helloSkewMsMax / 1000} s`, fix)];
  }
  const others = compared.filter(({ offMs }) => offMs > helloSkewMsMax);
  return [
    nearest.offMs > clockSkewMsLow
      ? warn("clock", offText(nearest), fix)
      : pass(
          "clock",
          `within ${Math.max(1, Math.ceil(nearest.offMs / 1000))} s of the clock of ${nearest.name}`,
        ),
    ...others.map((other) =>
      warn(
        "clock",
        `${offText(other)}; other brokers agree with this host, so that one is wrong`,
        "Set the clock of that broker's host.",
      ),
    ),
  ];
}

const offText = ({ name, skewMs, offMs }: { name: string; skewMs: number; offMs: number }): string =>
  `it is ${spanText(offMs / 1000)} ${skewMs > 0 ? "behind" : "ahead of"} the clock of ${name}`;

function judgeByFiles(files: readonly FileFact[], nowMs: number, today: string, fix: string): Finding {
  const newest = files.toSorted((a, b) => b.mtimeMs - a.mtimeMs)[0];
  if (newest !== undefined && newest.mtimeMs > nowMs + fileAheadMsMax) {
    const when = new Date(newest.mtimeMs).toISOString();
    return warn(
      "clock",
      `it says ${today}, but ${newest.path} was written at ${when}: it was set back, or was ahead then`,
      fix,
    );
  }
  return pass("clock", `${today} is plausible; there was no broker to compare it with`);
}
