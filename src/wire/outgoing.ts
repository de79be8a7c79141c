/**
 * What every way of sending checks first, before anything is written: the address, the text, the meta. Pure; a failure
 * consumes nothing.
 */
import { MeshError } from "~/errors";

import { canonicalMeta } from "~/wire/fingerprint";
import { metaBytesMax, metaDepthMax } from "~/wire/limits";
import { clientMessageIdPattern, explainClientMessageId } from "~/wire/text";

export type Address =
  | { kind: "member"; text: string }
  | { kind: "agent"; member: string; agent: string }
  | { kind: "topic"; name: string }
  | { kind: "everyone" }
  | { kind: "queue"; name: string };

/** `to` of a request: a member's name or key, `name/agent`, `@topic`, `*` or `queue:name`. */
export function parseAddress(to: string): Address {
  const text = to.trim();
  if (text === "") throw new MeshError("invalid_request", "to: must not be empty");
  if (text === "*") return { kind: "everyone" };
  if (text.startsWith("@") || text.startsWith("#")) return { kind: "topic", name: text.slice(1) };
  if (text.startsWith("queue:")) return { kind: "queue", name: text.slice("queue:".length) };
  const slash = text.indexOf("/");
  if (slash >= 0) return { kind: "agent", member: text.slice(0, slash), agent: text.slice(slash + 1) };
  return { kind: "member", text };
}

/** The member that an address means; other kinds of destination are not carried yet. */
export function memberOf(to: string): string {
  const address = parseAddress(to);
  if (address.kind === "member") return address.text;
  const what = { agent: "an agent", topic: "a topic", everyone: "everyone", queue: "a queue" }[address.kind];
  throw new MeshError(
    "unsupported_destination",
    `${to} is ${what}; this version carries messages to single members`,
    {
      hint: "Send to a member by its name or key. claudemesh peers --all lists them.",
    },
  );
}

/** Half of a surrogate pair alone has no UTF-8 form: what would be hashed and sealed is not what was asked. */
export function checkMessageText(message: string): void {
  if (message === "")
    throw new MeshError("message_empty", "the message is empty", { hint: "Give it some text." });
  if (!message.isWellFormed()) {
    throw new MeshError("invalid_message", "the message is not valid Unicode text (a lone surrogate)", {
      hint: "Binary content must be encoded first, for example as base64.",
    });
  }
}

/** Refuses meta that is too large, too deep or cannot be written as canonical JSON. */
export function checkMeta(meta: Record<string, unknown> | null | undefined): void {
  if (meta === null || meta === undefined) return;
  if (isDeeperThan(metaDepthMax, meta)) {
    throw new MeshError("invalid_meta", `meta is nested more than ${metaDepthMax} levels deep`);
  }
  let canonical: string;
  try {
    canonical = canonicalMeta(meta);
  } catch (error) {
    throw new MeshError("invalid_meta", "meta has no canonical JSON form (RFC 8785)", { cause: error });
  }
  const bytes = Buffer.byteLength(canonical);
  if (bytes > metaBytesMax) {
    throw new MeshError("invalid_meta", `meta has ${bytes} bytes; at most ${metaBytesMax} are allowed`, {
      details: { size_bytes: bytes, limit_bytes: metaBytesMax },
    });
  }
  if (!canonical.isWellFormed()) throw new MeshError("invalid_meta", "meta is not valid Unicode text");
}

/** Zero bytes separate the parts of the fingerprint, so none of the parts may hold one. */
export function checkNoZeroByte(name: string, text: string | null | undefined): void {
  if (text?.includes("\0")) throw new MeshError("invalid_request", `${name}: must not contain a zero byte`);
}

export function checkClientMessageId(id: string): void {
  if (!clientMessageIdPattern.test(id)) throw new MeshError("invalid_id", explainClientMessageId);
}

/** The id of a message from the body or from the header; two different ones cannot both be meant. */
export function idempotencyKey(inBody: string | undefined, inHeader: string | null): string | undefined {
  if (inHeader === null) return inBody;
  checkClientMessageId(inHeader);
  if (inBody !== undefined && inBody !== inHeader) {
    throw new MeshError(
      "idempotency_key_mismatch",
      "client_message_id and the Idempotency-Key header differ",
      {
        hint: "Give the id in one of them only.",
      },
    );
  }
  return inHeader;
}

/** Looks no deeper than it has to: what a request nests has room for more levels than the stack. */
function isDeeperThan(levels: number, value: unknown): boolean {
  if (typeof value !== "object" || value === null) return false;
  return levels === 0 || Object.values(value).some((inner) => isDeeperThan(levels - 1, inner));
}
