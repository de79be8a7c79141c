/**
 * Scripts of the mocks: what a stand-in daemon does otherwise than usual. One schema for both, told apart by `mock`. What depends
 * on the command or the route that a rule names (the fields of its reply, say) is checked by the mock that reads the script.
 */
import * as v from "valibot";
import { errorCodes } from "~/errors";
import { eventNames, routes } from "~/wire/ipc";
import { scriptRulesMax, timerMsMax } from "~/wire/limits";
import { pilotAnswerNames, pilotRequestNames } from "~/wire/pilot";
import { HeaderName, HeaderValue, HttpStatus, JsonObject, ScriptedBytes } from "~/wire/text";

const DelayMs = v.pipe(
  v.number(),
  v.integer(),
  v.minValue(0),
  v.maxValue(timerMsMax),
  v.description("Milliseconds to wait first. What comes after on the same connection does not wait."),
);
const Times = v.pipe(
  v.number(),
  v.integer(),
  v.minValue(1),
  v.description("Applies so many times; after that, the rules below decide. Default: always"),
);
const Where = v.pipe(
  JsonObject,
  v.description("Only when the request has these values; of an object, only what is named here"),
);
const Drop = v.pipe(v.literal(true), v.description("Never answer"));
const Cut = v.pipe(
  v.union([v.literal(true), v.strictObject({ after_bytes: v.pipe(v.number(), v.integer(), v.minValue(0)) })]),
  v.description("Close the connection instead of answering, or after so many bytes of the answer"),
);
const RawBytes = v.pipe(
  ScriptedBytes,
  v.description('Write these bytes instead of the answer, as they are: text, or { "hex": "00ff" }'),
);

/** What both kinds of rules may do; at most one of them, and what is left out is done as usual. */
const effects = {
  drop: v.exactOptional(Drop),
  cut: v.exactOptional(Cut),
  bytes: v.exactOptional(RawBytes),
};
const effectNames = ["reply", "error", "drop", "cut", "bytes"] as const;

/** What some of the checks below mean in JSON Schema, which cannot be told by looking at them. */
export const statedInJsonSchema = new WeakMap<object, object>();

function stated<C extends object>(check: C, jsonSchema: object): C {
  statedInJsonSchema.set(check, jsonSchema);
  return check;
}

const each = (names: readonly string[]) => names.map((name) => ({ required: [name] }));
const present = (object: object, names: readonly string[]) => names.filter((name) => name in object);

/** The keys of which at most one may stand in an object. */
const onlyOneOf = <T extends object>(...names: readonly string[]) =>
  stated(
    v.check<T, string>((object) => present(object, names).length <= 1, `only one of ${names.join(", ")}`),
    { oneOf: [...each(names), { not: { anyOf: each(names) } }] },
  );

/** The keys of which one must stand in an object, and no other. */
const oneOf = <T extends object>(...names: readonly string[]) =>
  stated(
    v.check<T, string>(
      (object) => present(object, names).length === 1,
      `one of ${names.slice(0, -1).join(", ")} and ${names.at(-1)} is needed, and no more`,
    ),
    { oneOf: each(names) },
  );

/** Keys that mean something only beside another. */
const belongTo = <T extends object>(owner: string, ...names: readonly string[]) =>
  stated(
    v.check<T, string>(
      (object) => owner in object || present(object, names).length === 0,
      `${names.join(", ")} may stand only beside ${owner}`,
    ),
    { dependentRequired: Object.fromEntries(names.map((name) => [name, [owner]])) },
  );

// ── Pilot ───────────────────────────────────────────────────────────────────────────────────────────────────────────

const families = [
  ...new Set(pilotRequestNames.flatMap((name) => (name.includes(".") ? [name.split(".")[0] ?? ""] : []))),
];
/** A command, all sub-commands of one, or everything. */
const PilotOn = v.pipe(
  v.picklist([...pilotRequestNames, ...families, "*"]),
  v.description("A command (`dial`, `network.join`), all sub-commands of one (`network`), or `*`"),
);
const PilotError = v.union([
  v.string(),
  v.strictObject({
    code: v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(0xffff)),
    text: v.string(),
  }),
]);

export const PilotRule = v.pipe(
  v.strictObject({
    on: PilotOn,
    where: v.exactOptional(Where),
    times: v.exactOptional(Times),
    delay_ms: v.exactOptional(DelayMs),
    reply: v.exactOptional(
      v.pipe(
        v.unknown(),
        v.description(
          "The JSON of the reply; for `bind`, `dial`, `send`, `close` and `send_to` its fields, as far as they differ",
        ),
      ),
    ),
    error: v.exactOptional(
      v.pipe(PilotError, v.description("Answer with this error; the code is 1 by default")),
    ),
    ...effects,
  }),
  onlyOneOf(...effectNames),
);
export type PilotRule = v.InferOutput<typeof PilotRule>;

export const PilotPush = v.pipe(
  v.strictObject({
    after: v.pipe(
      v.picklist([...pilotRequestNames, ...families, "*", "connect"]),
      v.description("A command was handled, or `connect`: a client has connected. It goes to that client"),
    ),
    where: v.exactOptional(Where),
    times: v.exactOptional(Times),
    delay_ms: v.exactOptional(DelayMs),
    push: v.exactOptional(
      v.pipe(
        v.picklist(pilotAnswerNames),
        v.description("What to send: `recv`, `accept`, `recv_from`, or any reply"),
      ),
    ),
    fields: v.exactOptional(
      v.pipe(
        JsonObject,
        v.description(
          "The fields of what is sent; one that is left out is taken from the command or its reply",
        ),
      ),
    ),
    bytes: v.exactOptional(RawBytes),
    cut: v.exactOptional(v.pipe(v.literal(true), v.description("Close the connection"))),
  }),
  oneOf("push", "bytes", "cut"),
  belongTo("push", "fields"),
);
export type PilotPush = v.InferOutput<typeof PilotPush>;

export const PilotScript = v.strictObject({
  $schema: v.exactOptional(v.string()),
  mock: v.literal("pilot"),
  rules: v.exactOptional(v.pipe(v.array(PilotRule), v.maxLength(scriptRulesMax))),
  pushes: v.exactOptional(v.pipe(v.array(PilotPush), v.maxLength(scriptRulesMax))),
});
export type PilotScript = v.InferOutput<typeof PilotScript>;

// ── Daemon ──────────────────────────────────────────────────────────────────────────────────────────────────────────

const routeTexts = Object.values(routes).map(({ method, path }) => `${method} ${path}` as const);

/** Those that the mock writes itself; whoever wants them otherwise writes the whole answer, as `bytes`. */
const ownHeaders = ["connection", "content-length", "date", "trailer", "transfer-encoding"];
const ReplyHeaderName = v.pipe(
  HeaderName,
  stated(
    v.check(
      (name: string) => !ownHeaders.includes(name.toLowerCase()),
      "the mock writes this header itself; an answer where it is wrong is written with bytes",
    ),
    { not: { enum: ownHeaders } },
  ),
);

const DaemonWhere = v.pipe(
  v.strictObject({
    param: v.exactOptional(v.pipe(v.string(), v.description("The part of the path that varies"))),
    query: v.exactOptional(JsonObject),
    body: v.exactOptional(JsonObject),
    headers: v.exactOptional(v.record(HeaderName, v.string())),
  }),
  v.description("Only when the request has these values; of an object, only what is named here"),
);

export const DaemonReply = v.pipe(
  v.strictObject({
    status: v.exactOptional(v.pipe(HttpStatus, v.description("Default: as usual"))),
    headers: v.exactOptional(
      v.pipe(
        v.record(ReplyHeaderName, v.nullable(HeaderValue)),
        v.description("Besides the usual ones or in their place; null leaves one out"),
      ),
    ),
    json: v.exactOptional(
      v.pipe(v.unknown(), v.description("The body, as JSON; not held against any schema")),
    ),
    merge: v.exactOptional(
      v.pipe(
        JsonObject,
        v.description("What differs from the usual body, as a JSON Merge Patch (RFC 7396): null removes"),
      ),
    ),
    body: v.exactOptional(v.pipe(ScriptedBytes, v.description("The body, as it is"))),
  }),
  onlyOneOf("json", "merge", "body"),
);
export type DaemonReply = v.InferOutput<typeof DaemonReply>;

const AfterBytes = v.strictObject({
  after_bytes: v.pipe(
    v.number(),
    v.integer(),
    v.minValue(0),
    v.description("Of the body; 0: right after the headers"),
  ),
});

export const DaemonRule = v.pipe(
  v.strictObject({
    on: v.pipe(
      v.picklist([...routeTexts, "*"]),
      v.description("A route as the documents write it (`GET /v1/messages/:client_message_id`), or `*`"),
    ),
    where: v.exactOptional(DaemonWhere),
    times: v.exactOptional(Times),
    delay_ms: v.exactOptional(DelayMs),
    reply: v.exactOptional(DaemonReply),
    error: v.exactOptional(
      v.pipe(
        v.union([
          v.picklist(errorCodes),
          v.strictObject({
            error: v.string(),
            message: v.exactOptional(v.string()),
            hint: v.exactOptional(v.string()),
            details: v.exactOptional(v.pipe(JsonObject, v.description("Further fields of the answer"))),
            status: v.exactOptional(HttpStatus),
          }),
        ]),
        v.description("Answer with this error: its code, or all of it"),
      ),
    ),
    drop: v.exactOptional(
      v.pipe(
        v.union([v.literal(true), AfterBytes]),
        v.description(
          "Never answer, or fall silent after so much of the answer; the connection stays open as long as the client wants",
        ),
      ),
    ),
    cut: v.exactOptional(
      v.pipe(
        v.union([v.literal(true), AfterBytes]),
        v.description("Close the connection instead of answering, or after so much of the answer"),
      ),
    ),
    bytes: v.exactOptional(
      v.pipe(
        ScriptedBytes,
        v.description(
          'Write these bytes to the connection instead of an answer, as they are, and close it: text, or { "hex": "00ff" }',
        ),
      ),
    ),
  }),
  onlyOneOf(...effectNames),
);
export type DaemonRule = v.InferOutput<typeof DaemonRule>;

const oneLine = (what: string) => v.regex(/^[^\r\n\0]*$/, `${what} is a single line`);

export const DaemonEvent = v.pipe(
  v.strictObject({
    after: v.pipe(
      v.picklist([...routeTexts, "*"]),
      v.description(
        "A request was taken, whatever became of its answer; one that was refused, by a rule too, does not count. It goes to all open streams. `GET /v1/events`: a stream was opened; it goes to that one",
      ),
    ),
    where: v.exactOptional(DaemonWhere),
    times: v.exactOptional(Times),
    delay_ms: v.exactOptional(DelayMs),
    event: v.exactOptional(
      v.pipe(
        v.union([v.picklist(eventNames), v.pipe(v.string(), oneLine("the name of an event"))]),
        v.description("The name of the event"),
      ),
    ),
    id: v.exactOptional(
      v.pipe(
        v.string(),
        oneLine("an id"),
        v.description("Default: counted up for `message` and `receipt`, none for the others"),
      ),
    ),
    data: v.exactOptional(
      v.pipe(v.unknown(), v.description("Its JSON; by default something plausible of its kind")),
    ),
    merge: v.exactOptional(
      v.pipe(JsonObject, v.description("What differs from the default data, as a JSON Merge Patch")),
    ),
    bytes: v.exactOptional(
      v.pipe(ScriptedBytes, v.description("Write these bytes into the stream, as they are")),
    ),
    end: v.exactOptional(v.pipe(v.literal(true), v.description("End the stream in good order"))),
    cut: v.exactOptional(v.pipe(v.literal(true), v.description("Close the connection in the middle of it"))),
  }),
  oneOf("event", "bytes", "end", "cut"),
  belongTo("event", "id", "data", "merge"),
  onlyOneOf("data", "merge"),
);
export type DaemonEvent = v.InferOutput<typeof DaemonEvent>;

export const DaemonScript = v.strictObject({
  $schema: v.exactOptional(v.string()),
  mock: v.literal("daemon"),
  rules: v.exactOptional(v.pipe(v.array(DaemonRule), v.maxLength(scriptRulesMax))),
  events: v.exactOptional(v.pipe(v.array(DaemonEvent), v.maxLength(scriptRulesMax))),
});
export type DaemonScript = v.InferOutput<typeof DaemonScript>;

export const MockScript = v.variant("mock", [PilotScript, DaemonScript]);
export type MockScript = v.InferOutput<typeof MockScript>;
