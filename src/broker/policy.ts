/**
 * Whether a member that is connected may connect again, and what becomes of the connections that it has. Under any policy a
 * daemon that comes back takes its own place: the connection it had before is dead, though the broker may not know it yet.
 */
import type { Bounds } from "~/broker/bounds";
import { isSendOnly, type Session } from "~/broker/connections";
import type { HelloRefusal } from "~/broker/hello";
import { type ConnectionPolicy, closeCode, type Hello } from "~/wire/broker";

/** The sessions of one member, each list oldest first. */
export interface MemberSessions {
  full: readonly Session[];
  sendOnly: number;
}

export type Meeting = { replaces: readonly Session[] } | { refused: HelloRefusal };

export function meet(
  hello: Hello,
  { full, sendOnly }: MemberSessions,
  policy: ConnectionPolicy,
  bounds: Bounds,
): Meeting {
  if (isSendOnly(hello)) {
    const max = bounds.sendOnlyPerMemberMax;
    return sendOnly < max
      ? { replaces: [] }
      : tooMany(`this member has ${max} connections that only send, the most it may have`);
  }
  const own = full.filter((session) => isSameProcess(session.hello, hello));
  switch (policy) {
    case "prefer_newest":
      return { replaces: full };
    case "prefer_oldest":
      return own.length === full.length ? { replaces: own } : { refused: inUse };
    case "allow_concurrent": {
      const max = bounds.concurrentPerMemberMax;
      return full.length - own.length < max
        ? { replaces: own }
        : tooMany(`this member has ${max} connections, the most it may have`);
    }
  }
}

/** A daemon names its session by an id that is new with each of its starts. */
const isSameProcess = (one: Hello, other: Hello): boolean =>
  one.sessionId !== undefined && one.sessionId === other.sessionId;

const inUse: HelloRefusal = {
  code: "identity_in_use",
  message: "another connection of this member is open, and this broker prefers the oldest",
  closeCode: closeCode.replaced,
};

const tooMany = (message: string): Meeting => ({
  refused: { code: "too_many_connections", message, closeCode: closeCode.refused },
});
