/**
 * The token of the local API over TCP: 32 random bytes in a file for its owner's eyes only. It can be renewed while the daemon
 * runs; the one before it is then taken for a while, so that a client that has just read it does not fail. The token itself
 * is never answered or logged: who may have it reads the file. A restart ends the grace.
 */
import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import { chmodSync } from "node:fs";
import { type Clock, isoTime } from "~/clock";
import {
  ensureOwnDirectory,
  ensurePrivateDirectory,
  readTextFile,
  removeFile,
  storageError,
  writeFileAtomic,
} from "~/disk/file";
import { tryLock } from "~/disk/lock";
import { MeshError } from "~/errors";
import type { Log } from "~/log";
import { formerTokensMax } from "~/wire/limits";
import { daemonPaths, type HostPaths } from "~/wire/paths";

interface LocalTokenOptions {
  token: string;
  /** Puts a new one where clients read it; throws when it cannot, and then the old one stays. */
  keep(token: string): void;
  clock: Clock;
  /** For how long the old one is taken. */
  graceS(): number;
  log: Log;
}

export interface Renewal {
  renewedAtMs: number;
  /** Until when the old one is taken. */
  graceUntilMs: number;
}

export class LocalToken {
  readonly #options: LocalTokenOptions;
  #current: string;
  /** Newest first, with the monotonic time at which each ends. */
  #former: { token: string; untilMs: number }[] = [];

  constructor(options: LocalTokenOptions) {
    this.#options = options;
    this.#current = options.token;
  }

  /** What proves to a client that this is the daemon: it stands in the file, at any time. */
  get current(): string {
    return this.#current;
  }

  /** The time it takes tells nothing of any token, and nothing of which one it was. */
  accepts(given: string): boolean {
    const nowMs = this.#options.clock.monotonicMs();
    this.#former = this.#former.filter(({ untilMs }) => nowMs < untilMs);
    const digest = digestOf(given);
    let isOurs = timingSafeEqual(digest, digestOf(this.#current));
    for (const { token } of this.#former) isOurs = timingSafeEqual(digest, digestOf(token)) || isOurs;
    return isOurs;
  }

  /** Throws `storage_*`: then nothing has changed. */
  renew(): Renewal {
    const { clock, keep, graceS, log } = this.#options;
    const graceMs = graceS() * 1000;
    const token = makeToken();
    keep(token);
    const former = { token: this.#current, untilMs: clock.monotonicMs() + graceMs };
    this.#former = [former, ...this.#former].slice(0, formerTokensMax);
    this.#current = token;
    log("info", "token_rotated", { grace_s: graceMs / 1000 });
    return { renewedAtMs: clock.now(), graceUntilMs: clock.now() + graceMs };
  }
}

/** The token in the daemon's directory, made at the first start. To be called by the holder of the daemon's lock. */
export function openLocalToken(
  file: string,
  options: Pick<LocalTokenOptions, "clock" | "graceS" | "log">,
): LocalToken {
  const keep = (token: string): void => writeFileAtomic(file, `${token}\n`);
  const present = readTextFile(file)?.trim();
  if (present !== undefined && /^[A-Za-z0-9_-]{43}$/.test(present)) {
    try {
      chmodSync(file, 0o600);
    } catch (error) {
      throw storageError(`cannot close ${file} to others`, error);
    }
    return new LocalToken({ ...options, token: present, keep });
  }
  removeFile(file);
  const token = makeToken();
  keep(token);
  return new LocalToken({ ...options, token, keep });
}

/** Renews the token of a daemon that does not run, and keeps it from starting meanwhile. Throws `already_running`. */
export function renewStoredToken(host: HostPaths, clock: Clock): { rotated_at: string } {
  const paths = daemonPaths(host.daemonDir);
  ensureOwnDirectory(host.configDir);
  ensurePrivateDirectory(paths.dir);
  const lock = tryLock(paths.lock);
  if (lock === undefined) {
    throw new MeshError("already_running", `a daemon runs with ${paths.dir}, but does not answer`, {
      hint: "It may be starting or stopping: try again in a moment. claudemesh daemon status shows it.",
    });
  }
  try {
    writeFileAtomic(paths.token, `${makeToken()}\n`);
    return { rotated_at: isoTime(clock.now()) };
  } finally {
    lock.release();
  }
}

const makeToken = (): string => randomBytes(32).toString("base64url");

/** Of equal length, and keyed: comparing two of them tells nothing of what they were made from. */
const digestOf = (text: string): Buffer => createHmac("sha256", comparisonKey).update(text).digest();

const comparisonKey = randomBytes(32);
