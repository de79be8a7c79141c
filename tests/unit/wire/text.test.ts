/** The small text forms: what each takes and what it refuses, above all where text ends up in something that is signed. */
import { describe, expect, test } from "bun:test";
import * as v from "valibot";
import {
  Base64,
  Base64Url,
  BrokerUrl,
  Capabilities,
  ClientMessageId,
  DisplayName,
  explainIssues,
  ForeignSlug,
  InviteRole,
  JsonObject,
  Nonce,
  OpaqueId,
  Priority,
  PublicKey,
  Role,
  SecretKey,
  Seed,
  Sha256Hex,
  Signature,
  Slug,
  Status,
  TimeMs,
  TopicName,
} from "~/wire/text";

type Schema = v.GenericSchema<unknown, unknown>;

const hex = (digits: number): string => "0123456789abcdef".repeat(16).slice(0, digits);

/** Nothing of the kind may stand in a signed line. The last one has no form in UTF-8: it would be signed as U+FFFD. */
const unsignable = {
  "the separator": "a|b",
  "a zero byte": "a\u0000b",
  "a line feed": "a\nb",
  "a line feed at the end": "a\n",
  "a carriage return": "a\rb",
  "a tab": "a\tb",
  "an escape": "a\u001bb",
  "a delete": "a\u007fb",
  "a C1 control": "a\u0080b",
  "the last C1 control": "a\u009fb",
  "a next-line": "a\u0085b",
  "a line separator": "a\u2028b",
  "a paragraph separator": "a\u2029b",
  "half a surrogate pair": "a\ud83db",
  "the other half": "a\ude42b",
};

const otherTypes = {
  "a number": 1,
  null: null,
  undefined: undefined,
  "a list": ["a"],
  "an object": {},
  true: true,
};

interface Table {
  schema: Schema;
  takes: readonly unknown[];
  refuses: Readonly<Record<string, unknown>>;
}

const hexKey = (schema: Schema, digits: number): Table => ({
  schema,
  takes: [hex(digits), "0".repeat(digits), "f".repeat(digits)],
  refuses: {
    nothing: "",
    "a digit too few": hex(digits - 1),
    "a digit too many": hex(digits + 1),
    capitals: hex(digits).toUpperCase(),
    "a letter that is no digit": `g${hex(digits - 1)}`,
    "a space before": ` ${hex(digits - 1)}`,
    "a line feed after": `${hex(digits)}\n`,
    "a prefix": `0x${hex(digits - 2)}`,
    ...otherTypes,
  },
});

const tables: Record<string, Table> = {
  PublicKey: hexKey(PublicKey, 64),
  SecretKey: hexKey(SecretKey, 128),
  Seed: hexKey(Seed, 64),
  Signature: hexKey(Signature, 128),
  Sha256Hex: hexKey(Sha256Hex, 64),
  ClientMessageId: {
    schema: ClientMessageId,
    takes: ["a", "Z", "0", "deploy-42", "a.b_c:d-e", "01JC0000000000000000000000", "a".repeat(128), "0-._:"],
    refuses: {
      nothing: "",
      "a character too many": "a".repeat(129),
      "a hyphen first": "-a",
      "a dot first": ".a",
      "an underscore first": "_a",
      "a colon first": ":a",
      "a space": "a b",
      "a slash": "a/b",
      "an at sign": "a@b",
      "a plus": "a+b",
      "a letter beyond ASCII": "é",
      "a digit beyond ASCII": "١",
      ...unsignable,
      ...otherTypes,
    },
  },
  OpaqueId: {
    schema: OpaqueId,
    takes: ["a", " ", "mesh-1", "a/b", "日本", "🙂", "a".repeat(128)],
    refuses: { nothing: "", "a character too many": "a".repeat(129), ...unsignable, ...otherTypes },
  },
  DisplayName: {
    schema: DisplayName,
    takes: ["a", "bob", "Bob Smith", "日本", "🙂", "a".repeat(64), "#1", "o'neil", "a.b-c_d"],
    refuses: {
      nothing: "",
      "spaces alone": "   ",
      "a character too many": "a".repeat(65),
      "a slash, which would name an agent": "bob/x",
      "an at sign, which would name a topic": "@bob",
      "an at sign inside": "a@b",
      "an asterisk, which means everyone": "*",
      "a colon, which would name a queue": "queue:a",
      ...unsignable,
      // A line feed at the end is space around the name, and falls off.
      "a line feed at the end": "",
      ...otherTypes,
    },
  },
  Slug: {
    schema: Slug,
    takes: ["a", "0", "team", "team-1", "a--b", "a-", "a".repeat(64)],
    refuses: {
      nothing: "",
      "a character too many": "a".repeat(65),
      "a hyphen first": "-a",
      capitals: "Team",
      "a space": "my team",
      "a dot": "a.b",
      "an underscore": "a_b",
      "a slash": "a/b",
      "a letter beyond ASCII": "é",
      ...unsignable,
      ...otherTypes,
    },
  },
  ForeignSlug: {
    schema: ForeignSlug,
    takes: ["Team", "my team", "a".repeat(256), "é"],
    refuses: { nothing: "", "a character too many": "a".repeat(257), ...unsignable, ...otherTypes },
  },
  TopicName: {
    schema: TopicName,
    takes: ["alerts", "a b", "a".repeat(128)],
    refuses: { nothing: "", "a character too many": "a".repeat(129), ...unsignable, ...otherTypes },
  },
  BrokerUrl: {
    schema: BrokerUrl,
    takes: [
      "ws://h/ws",
      "wss://h/ws",
      "ws://127.0.0.1:7900/ws",
      "ws://[::1]:7900/ws",
      "wss://broker.example.com",
      "wss://h/ws?x=1&y=2",
      `ws://h/${"a".repeat(1024 - "ws://h/".length)}`,
    ],
    refuses: {
      nothing: "",
      "another scheme": "http://h/ws",
      "a scheme of a web page": "https://h/ws",
      "a scheme in capitals": "WS://h/ws",
      "no scheme": "h:7900/ws",
      "no host": "ws://",
      "no such port": "ws://h:99999/",
      "a space": "ws://h/a b",
      "a line feed after": "ws://h/ws\n",
      "a fragment, with which no WebSocket can be opened": "ws://h/ws#top",
      "an empty fragment": "ws://h/ws#",
      "a character too many": `ws://h/${"a".repeat(1025 - "ws://h/".length)}`,
      ...Object.fromEntries(Object.entries(unsignable).map(([what, text]) => [what, `ws://h/${text}`])),
      ...otherTypes,
    },
  },
  Base64: {
    schema: Base64,
    takes: ["", "aGk=", "aA==", "+/+/", "AAAA"],
    refuses: { "base64url digits": "-_-_", "three pads": "a===", "a pad inside": "a=b", "a space": "aG k" },
  },
  Nonce: {
    schema: Nonce,
    takes: ["A".repeat(32), `${"+/".repeat(16)}`, "pKN2jGLtMYDR5lplhwRTmE/TEgH8YvMa"],
    refuses: {
      nothing: "",
      "23 bytes": `${"A".repeat(31)}=`,
      "a character too few": "A".repeat(31),
      "a character too many": "A".repeat(33),
      "base64url digits": `-${"A".repeat(31)}`,
      ...otherTypes,
    },
  },
  Base64Url: {
    schema: Base64Url,
    takes: ["a", "-_", "AAAA"],
    refuses: { nothing: "", "a pad": "aA==", "base64 digits": "+/", "a space": "a b", ...otherTypes },
  },
  Priority: {
    schema: Priority,
    takes: ["now", "next", "low"],
    refuses: { "": "", NOW: "NOW", high: "high" },
  },
  Role: { schema: Role, takes: ["owner", "admin", "member"], refuses: { "": "", root: "root" } },
  InviteRole: {
    schema: InviteRole,
    takes: ["admin", "member"],
    refuses: { "a second owner": "owner", "": "", root: "root" },
  },
  Status: { schema: Status, takes: ["idle", "working", "dnd"], refuses: { away: "away", "": "" } },
  Capabilities: {
    schema: Capabilities,
    takes: [
      [],
      ["body2"],
      ["a".repeat(64)],
      Array.from({ length: 32 }, (_, index) => `c${index}`),
      ["unheard of"],
    ],
    refuses: {
      "one too many": Array.from({ length: 33 }, (_, index) => `c${index}`),
      "one that is too long": ["a".repeat(65)],
      "an empty one": [""],
      "one that is no text": [1],
      text: "body2",
    },
  },
  JsonObject: {
    schema: JsonObject,
    takes: [{}, { a: [1, { b: null }] }, JSON.parse('{"__proto__":{"a":1},"constructor":2,"prototype":3}')],
    refuses: { "a list": ["a"], "an empty list": [], null: null, text: "{}", "a number": 1 },
  },
  TimeMs: {
    schema: TimeMs,
    takes: [0, 1_750_000_000_000, Number.MAX_SAFE_INTEGER],
    refuses: {
      "a time before 1970": -1,
      "a fraction": 1.5,
      "a number that has lost its last digits": Number.MAX_SAFE_INTEGER + 1,
      "a huge number": 1e300,
      "no number": Number.NaN,
      infinity: Number.POSITIVE_INFINITY,
      text: "1750000000000",
      null: null,
    },
  },
};

for (const [name, { schema, takes, refuses }] of Object.entries(tables)) {
  describe(name, () => {
    test("takes what it is for, as it is", () => {
      expect(takes.map((value) => v.parse(schema, value))).toEqual([...takes]);
    });
    test.each(Object.entries(refuses))("refuses %s", (_, value) => {
      expect(v.safeParse(schema, value).success).toBe(false);
    });
  });
}

test("an object loses none of its keys", () => {
  const text = '{"__proto__":{"a":1},"constructor":2,"prototype":3}';
  expect(JSON.stringify(v.parse(JsonObject, JSON.parse(text)))).toBe(text);
});

test("a name has no space around it", () => {
  expect(v.parse(DisplayName, "  Bob Smith\n")).toBe("Bob Smith");
});

test("a broker URL that is taken can be given to a WebSocket", () => {
  for (const url of tables.BrokerUrl?.takes ?? []) {
    const socket = new WebSocket(String(url));
    socket.onerror = () => undefined;
    socket.terminate();
  }
});

describe("explainIssues", () => {
  const issuesOf = (schema: Schema, value: unknown) => v.safeParse(schema, value).issues ?? [];

  test("says which field is wrong, and how", () => {
    const schema = v.object({ a: v.object({ list: v.array(PublicKey) }) });
    expect(explainIssues(issuesOf(schema, { a: { list: ["x"] } }))).toBe(
      "a.list.0: 64 lower-case hex digits expected",
    );
  });
  test("says only what is wrong where there is no field", () => {
    expect(explainIssues(issuesOf(PublicKey, "x"))).toBe("64 lower-case hex digits expected");
  });
  test("says that a field is missing when it is", () => {
    const schema = v.object({ a: PublicKey });
    expect(explainIssues(issuesOf(schema, {}))).toBe("a: missing");
    expect(explainIssues(issuesOf(schema, { a: undefined }))).toBe("a: missing");
    expect(explainIssues(issuesOf(schema, { a: null }))).not.toContain("missing");
  });
  test("keeps to the first of several", () => {
    const schema = v.object({ a: PublicKey, b: PublicKey });
    expect(explainIssues(issuesOf(schema, { a: "x", b: "y" }))).toStartWith("a: ");
  });
  test("has something to say even about nothing", () => {
    expect(explainIssues([])).not.toBe("");
  });
});
