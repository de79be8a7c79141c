/** The small text forms that occur in several messages: keys, ids, names, base64. */
import * as v from "valibot";
import {
  capabilitiesMax,
  capabilityCharsMax,
  clientMessageIdCharsMax,
  nameCharsMax,
  slugCharsMax,
  topicCharsMax,
} from "~/wire/limits";

/**
 * Matches text that may stand in a signed line: no `|`, no control characters, no line separators, and no lone surrogates,
 * all of which become the same U+FFFD when the text is signed.
 */
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what it refuses
const signable = /^[^|\u0000-\u001f\u007f-\u009f\u2028\u2029\p{Surrogate}]*$/u;

export const PublicKey = v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/, "64 lower-case hex digits expected"));
export const SecretKey = v.pipe(v.string(), v.regex(/^[0-9a-f]{128}$/, "128 lower-case hex digits expected"));
export const Seed = v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/, "64 lower-case hex digits expected"));
export const Signature = v.pipe(v.string(), v.regex(/^[0-9a-f]{128}$/, "128 lower-case hex digits expected"));
export const Sha256Hex = v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/, "64 lower-case hex digits expected"));

/** `[A-Za-z0-9][A-Za-z0-9._:-]{0,127}`: what an idempotency key may look like. */
export const clientMessageIdPattern = new RegExp(
  `^[A-Za-z0-9][A-Za-z0-9._:-]{0,${clientMessageIdCharsMax - 1}}$`,
);
export const explainClientMessageId = `an id is 1 to ${clientMessageIdCharsMax} characters of A-Z a-z 0-9 . _ : - and starts with a letter or a digit`;
export const ClientMessageId = v.pipe(v.string(), v.regex(clientMessageIdPattern, explainClientMessageId));

/** An id made by one party and repeated by others (mesh, member, invite, presence). */
export const OpaqueId = v.pipe(
  v.string(),
  v.nonEmpty(),
  v.maxLength(128),
  v.regex(signable, "contains | or a control character"),
);

export const DisplayName = v.pipe(
  v.string(),
  v.trim(),
  v.nonEmpty("a name must not be empty"),
  v.maxLength(nameCharsMax, `a name has at most ${nameCharsMax} characters`),
  v.regex(/^[^/@*:]*$/, "a name contains no / @ * or :"),
  v.regex(signable, "a name contains no | and no control characters"),
);

export const Slug = v.pipe(
  v.string(),
  v.regex(
    /^[a-z0-9][a-z0-9-]*$/,
    "a slug has lower-case letters, digits and hyphens, and starts with a letter or a digit",
  ),
  v.maxLength(slugCharsMax, `a slug has at most ${slugCharsMax} characters`),
);

/** The slug of a mesh from a version-1 install, which we read but did not choose. */
export const ForeignSlug = v.pipe(
  v.string(),
  v.nonEmpty(),
  v.maxLength(256),
  v.regex(signable, "contains | or a control character"),
);

export const TopicName = v.pipe(
  v.string(),
  v.nonEmpty(),
  v.maxLength(topicCharsMax),
  v.regex(signable, "contains | or a control character"),
);

/** A whole WebSocket URL, as `brokerUrl` everywhere. With a fragment it could not be opened (RFC 6455 §3). */
export const BrokerUrl = v.pipe(
  v.string(),
  v.regex(/^wss?:\/\/[^\s|]+$/, "a broker URL starts with ws:// or wss://"),
  v.regex(signable, "a broker URL contains no | and no control characters"),
  v.regex(/^[^#]*$/, "a broker URL has no fragment (#)"),
  v.check((text) => URL.canParse(text), "not a URL"),
  v.maxLength(1024),
);

export const Base64 = v.pipe(v.string(), v.regex(/^[A-Za-z0-9+/]*={0,2}$/, "standard base64 expected"));
/** 24 random bytes. */
export const Nonce = v.pipe(
  v.string(),
  v.regex(/^[A-Za-z0-9+/]{32}$/, "24 bytes of standard base64 expected"),
);
export const Base64Url = v.pipe(
  v.string(),
  v.regex(/^[A-Za-z0-9_-]+$/, "base64url without padding expected"),
);

export const Priority = v.picklist(["now", "next", "low"]);
export type Priority = v.InferOutput<typeof Priority>;

export const Role = v.picklist(["owner", "admin", "member"]);
export const InviteRole = v.picklist(["admin", "member"]);
export type InviteRole = v.InferOutput<typeof InviteRole>;

export const Status = v.picklist(["idle", "working", "dnd"]);

/** Text that a person sees beside others: short enough to show. */
export const Line = (charsMax: number) => v.pipe(v.string(), v.maxLength(charsMax));

export const Capabilities = v.pipe(
  v.array(v.pipe(v.string(), v.nonEmpty(), v.maxLength(capabilityCharsMax))),
  v.maxLength(capabilitiesMax, `at most ${capabilitiesMax} capabilities`),
);

/**
 * A JSON object with whatever is in it, as it is. `v.record` will not do for what others chose: it takes a list for an object
 * and drops keys such as `constructor`.
 */
export const JsonObject = v.custom<Record<string, unknown>>(
  (value) => typeof value === "object" && value !== null && !Array.isArray(value),
  "an object expected",
);

/** Where the text of a JSON value has more objects and lists inside each other than this: it may overflow the stack of who reads it. */
export function firstTooDeep(text: string, depthMax: number): number | undefined {
  let depth = 0;
  let isInString = false;
  for (let at = 0; at < text.length; at++) {
    const character = text[at];
    if (isInString) {
      if (character === "\\") at++;
      else if (character === '"') isInString = false;
    } else if (character === '"') isInString = true;
    else if (character === "{" || character === "[") {
      if (++depth > depthMax) return at;
    } else if (character === "}" || character === "]") depth--;
  }
  return undefined;
}

/** The text of a JSON object, as a database keeps it. */
export const JsonObjectText = v.pipe(v.string(), v.parseJson(), JsonObject);

const explainHex = "pairs of hex digits expected";
/** Bytes in hex; upper case is made lower. A pattern of pairs overflows at some megabytes, and then nothing matches it. */
export const Hex = v.pipe(
  v.string(),
  v.regex(/^[0-9A-Fa-f]*$/, explainHex),
  v.check((text) => text.length % 2 === 0, explainHex),
  v.toLowerCase(),
);

/** Bytes as a person writes them: text, or `{ "hex": "00ff" }` for what is no text. */
export const ScriptedBytes = v.union([
  v.pipe(
    v.string(),
    v.transform((text): Uint8Array => new TextEncoder().encode(text)),
  ),
  v.pipe(
    v.strictObject({ hex: Hex }),
    v.transform(({ hex }): Uint8Array => Uint8Array.fromHex(hex)),
  ),
]);

/** Of an answer over HTTP, once it is final. */
export const HttpStatus = v.pipe(v.number(), v.integer(), v.minValue(200), v.maxValue(599));
export const HeaderName = v.pipe(v.string(), v.regex(/^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/, "no name of a header"));
export const HeaderValue = v.pipe(v.string(), v.regex(/^[\t\x20-\x7e]*$/, "printable ASCII expected"));

/** Milliseconds since 1970. */
export const TimeMs = v.pipe(v.number(), v.safeInteger(), v.minValue(0));

/**
 * The first thing wrong, as `field: what`; for answers and logs. Quotes nothing of the value: it may be a key, a token or
 * a message, and these words end up in logs.
 */
export function explainIssues(issues: readonly v.BaseIssue<unknown>[]): string {
  const first = issues[0];
  if (first === undefined) return "does not fit its schema";
  const where = v.getDotPath(first);
  const what = first.received === "undefined" ? "missing" : withoutValue(first);
  return where === null ? what : `${where}: ${what}`;
}

/** valibot's own sentences end with the value itself when it is a text or a number. */
function withoutValue({ message, received, kind, input }: v.BaseIssue<unknown>): string {
  const isText = received.startsWith('"');
  const isNumber = kind === "schema" && (typeof input === "number" || typeof input === "bigint");
  if (!(isText || isNumber) || !message.endsWith(`eceived ${received}`)) return message;
  return `${message.slice(0, -received.length)}some ${isText ? "text" : "number"}`;
}

/** The longest beginning of `text` that fits into `bytes` of UTF-8. */
export function cutToBytes(text: string, bytes: number): string {
  if (Buffer.byteLength(text) <= bytes) return text;
  const cut = Buffer.from(text, "utf8").subarray(0, bytes);
  return new TextDecoder("utf-8").decode(cut).replace(/\uFFFD+$/, "");
}
