/**
 * The bare local protocol of a Pilot daemon: frames of `[u32 length][u8 command][payload]` (wire/frame.ts frames them), integers
 * big-endian. Every command is a row of a table from which both directions of the codec, the mock and its scripts are made. A
 * payload that is longer than its fields is accepted, and the rest ignored, as Pilot's own daemon does.
 */
import * as v from "valibot";
import { MeshError, messageOf } from "~/errors";
import { encodeFrame } from "~/wire/frame";
import { pilotFrameBytesMax } from "~/wire/limits";
import { ScriptedBytes } from "~/wire/text";

// ── Addresses ───────────────────────────────────────────────────────────────────────────────────────────────────────

/** 48 bits: a network (u16) and a node in it (u32). */
export interface PilotAddress {
  network: number;
  node: number;
}

const addressForm =
  "N:NNNN.HHHH.LLLL: the network in decimal, then in hex, then the node in two groups of 4 hex digits";

/** `1:0001.AAAA.BBBB`, and `1:0001.AAAA.BBBB:80` with a port. */
export function renderPilotAddress({ network, node }: PilotAddress, port?: number): string {
  const groups = [network, node >>> 16, node & 0xffff].map((group) =>
    group.toString(16).toUpperCase().padStart(4, "0"),
  );
  return `${network}:${groups.join(".")}${port === undefined ? "" : `:${port}`}`;
}

/** Throws `invalid_address`, with what is wrong. */
export function parsePilotAddress(text: string): PilotAddress {
  const { address, port } = parsePilotEndpoint(text);
  if (port !== undefined) throw invalidAddress(text, "a port has no place here");
  return address;
}

/** An address that may have a port. Throws `invalid_address`, with what is wrong. */
export function parsePilotEndpoint(text: string): { address: PilotAddress; port: number | undefined } {
  const [networkText = "", groupsText, portText, ...more] = text.split(":");
  if (groupsText === undefined) throw invalidAddress(text, 'there is no ":" after the network');
  if (more.length > 0) throw invalidAddress(text, 'too many ":"');
  const network = wholeU16(networkText);
  if (network === undefined) {
    throw invalidAddress(
      text,
      `the network is a decimal number up to 65535, not ${JSON.stringify(networkText)}`,
    );
  }
  const groups = groupsText.split(".");
  if (groups.length !== 3) {
    throw invalidAddress(text, `three groups after the network expected, not ${groups.length}`);
  }
  const odd = groups.find((group) => !/^[0-9A-Fa-f]{4}$/.test(group));
  if (odd !== undefined) throw invalidAddress(text, `a group has 4 hex digits, not ${JSON.stringify(odd)}`);
  const [networkAgain = 0, high = 0, low = 0] = groups.map((group) => Number.parseInt(group, 16));
  if (networkAgain !== network) {
    throw invalidAddress(
      text,
      `the network is ${network} before the ":" and ${networkAgain} (hex ${groups[0]}) after it`,
    );
  }
  const port = portText === undefined ? undefined : wholeU16(portText);
  if (portText !== undefined && port === undefined) {
    throw invalidAddress(text, `the port is a decimal number up to 65535, not ${JSON.stringify(portText)}`);
  }
  return { address: { network, node: high * 0x1_0000 + low }, port };
}

const wholeU16 = (text: string): number | undefined =>
  /^(0|[1-9]\d{0,4})$/.test(text) && Number(text) <= 0xffff ? Number(text) : undefined;

const invalidAddress = (text: string, why: string): MeshError =>
  new MeshError("invalid_address", `${JSON.stringify(text)} is no Pilot address: ${why}`, {
    hint: `An address is written ${addressForm}.`,
  });

// ── Fields ──────────────────────────────────────────────────────────────────────────────────────────────────────────

export interface Field<T> {
  /** The value as JSON has it: what scripts write. */
  schema: v.GenericSchema<unknown, T>;
  write(value: T): Uint8Array;
  /** The value that begins at `at`. Undefined when the payload ends before it does. */
  read(payload: Uint8Array, at: number): { value: T; end: number } | undefined;
}

const utf8 = new TextEncoder();
/** What is no UTF-8 becomes U+FFFD, as Pilot's JSON has it. */
const lenientUtf8 = new TextDecoder("utf-8", { ignoreBOM: true });
const viewOf = (bytes: Uint8Array): DataView =>
  new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

/** A field of a fixed size. */
const fixed = <T>(
  bytes: number,
  schema: v.GenericSchema<unknown, T>,
  write: (view: DataView, value: T) => void,
  read: (view: DataView, at: number) => T,
): Field<T> => ({
  schema,
  write(value) {
    const field = new Uint8Array(bytes);
    write(viewOf(field), value);
    return field;
  },
  read: (payload, at) =>
    payload.length < at + bytes ? undefined : { value: read(viewOf(payload), at), end: at + bytes },
});

/** A field that takes what is left of the payload, which may be nothing. */
const remaining = <T>(
  schema: v.GenericSchema<unknown, T>,
  write: (value: T) => Uint8Array,
  read: (bytes: Uint8Array) => T,
): Field<T> => ({
  schema,
  write,
  read: (payload, at) => ({ value: read(payload.subarray(at)), end: payload.length }),
});

const Whole = (max: number) => v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(max));

const u16 = fixed<number>(
  2,
  Whole(0xffff),
  (view, value) => view.setUint16(0, value),
  (view, at) => view.getUint16(at),
);
const u32 = fixed<number>(
  4,
  Whole(0xffff_ffff),
  (view, value) => view.setUint32(0, value),
  (view, at) => view.getUint32(at),
);
const bool = fixed<boolean>(
  1,
  v.boolean(),
  (view, value) => view.setUint8(0, value ? 1 : 0),
  (view, at) => view.getUint8(at) === 1,
);
const address = fixed<PilotAddress>(
  6,
  v.pipe(
    v.string(),
    v.rawTransform(({ dataset, addIssue, NEVER }) => {
      try {
        return parsePilotAddress(dataset.value);
      } catch (error) {
        addIssue({ message: messageOf(error) });
        return NEVER;
      }
    }),
  ),
  (view, { network, node }) => {
    view.setUint16(0, network);
    view.setUint32(2, node);
  },
  (view, at) => ({ network: view.getUint16(at), node: view.getUint32(at + 2) }),
);
const text = remaining<string>(
  v.string(),
  (value) => utf8.encode(value),
  (bytes) => lenientUtf8.decode(bytes),
);
const bytes = remaining<Uint8Array>(
  ScriptedBytes,
  (value) => value,
  (taken) => taken,
);
/** Text with its length before it, as u16. */
const text16: Field<string> = {
  schema: v.pipe(v.string(), v.maxBytes(0xffff)),
  write(value) {
    const encoded = utf8.encode(value);
    return Buffer.concat([u16.write(encoded.length), encoded]);
  },
  read(payload, at) {
    const length = u16.read(payload, at);
    if (length === undefined) return undefined;
    const end = length.end + length.value;
    return payload.length < end
      ? undefined
      : { value: lenientUtf8.decode(payload.subarray(length.end, end)), end };
  },
};
/** The text of a JSON value. It is kept as text: what is no JSON is for the reader to refuse. */
const json: Field<string> = {
  ...text,
  schema: v.pipe(
    v.unknown(),
    v.transform((value) => JSON.stringify(value)),
  ),
};

// ── The tables ──────────────────────────────────────────────────────────────────────────────────────────────────────

export interface Layout {
  command: number;
  /** What the payload begins with, where a command has several meanings. */
  sub?: readonly number[];
  // biome-ignore lint/suspicious/noExplicitAny: the fields of a layout are of different types
  fields: Readonly<Record<string, Field<any>>>;
}

/** What a daemon sends. `accept`, `recv` and `recv_from` come unasked, as pushes. */
export const pilotAnswers = {
  bind_ok: { command: 0x02, fields: { port: u16 } },
  dial_ok: { command: 0x04, fields: { conn_id: u32 } },
  accept: { command: 0x05, fields: { port: u16, conn_id: u32, address, remote_port: u16 } },
  recv: { command: 0x07, fields: { conn_id: u32, data: bytes } },
  close_ok: { command: 0x09, fields: { conn_id: u32 } },
  error: { command: 0x0a, fields: { code: u16, text } },
  recv_from: { command: 0x0c, fields: { address, source_port: u16, port: u16, data: bytes } },
  info_ok: { command: 0x0e, fields: { body: json } },
  handshake_ok: { command: 0x10, fields: { body: json } },
  resolve_ok: { command: 0x12, fields: { body: json } },
  set_hostname_ok: { command: 0x14, fields: { body: json } },
  set_visibility_ok: { command: 0x16, fields: { body: json } },
  deregister_ok: { command: 0x18, fields: { body: json } },
  set_tags_ok: { command: 0x1a, fields: { body: json } },
  set_webhook_ok: { command: 0x1c, fields: { body: json } },
  network_ok: { command: 0x20, fields: { body: json } },
  health_ok: { command: 0x22, fields: { body: json } },
  managed_ok: { command: 0x24, fields: { body: json } },
  rotate_key_ok: { command: 0x26, fields: { body: json } },
  broadcast_ok: { command: 0x2a, fields: {} },
} as const satisfies Record<string, Layout>;

export type PilotAnswerName = keyof typeof pilotAnswers;

interface RequestLayout extends Layout {
  answer: PilotAnswerName;
}

/** What a client sends, and what answers it: the reply, or for `send` and `send_to` the push in which the data comes back. */
export const pilotRequests = {
  bind: { command: 0x01, fields: { port: u16 }, answer: "bind_ok" },
  dial: { command: 0x03, fields: { address, port: u16 }, answer: "dial_ok" },
  send: { command: 0x06, fields: { conn_id: u32, data: bytes }, answer: "recv" },
  close: { command: 0x08, fields: { conn_id: u32 }, answer: "close_ok" },
  send_to: { command: 0x0b, fields: { address, port: u16, data: bytes }, answer: "recv_from" },
  info: { command: 0x0d, fields: {}, answer: "info_ok" },
  "handshake.send": {
    command: 0x0f,
    sub: [0x01],
    fields: { node: u32, justification: text },
    answer: "handshake_ok",
  },
  "handshake.approve": { command: 0x0f, sub: [0x02], fields: { node: u32 }, answer: "handshake_ok" },
  "handshake.reject": {
    command: 0x0f,
    sub: [0x03],
    fields: { node: u32, reason: text },
    answer: "handshake_ok",
  },
  "handshake.pending": { command: 0x0f, sub: [0x04], fields: {}, answer: "handshake_ok" },
  "handshake.trusted": { command: 0x0f, sub: [0x05], fields: {}, answer: "handshake_ok" },
  "handshake.revoke": { command: 0x0f, sub: [0x06], fields: { node: u32 }, answer: "handshake_ok" },
  "handshake.wait": {
    command: 0x0f,
    sub: [0x07],
    fields: { node: u32, timeout_ms: u32 },
    answer: "handshake_ok",
  },
  resolve: { command: 0x11, fields: { hostname: text }, answer: "resolve_ok" },
  set_hostname: { command: 0x13, fields: { hostname: text }, answer: "set_hostname_ok" },
  set_visibility: { command: 0x15, fields: { public: bool }, answer: "set_visibility_ok" },
  deregister: { command: 0x17, fields: {}, answer: "deregister_ok" },
  /** `tags` is a JSON array. */
  set_tags: { command: 0x19, fields: { tags: text }, answer: "set_tags_ok" },
  set_webhook: { command: 0x1b, fields: { url: text }, answer: "set_webhook_ok" },
  "network.list": { command: 0x1f, sub: [0x01], fields: {}, answer: "network_ok" },
  "network.join": {
    command: 0x1f,
    sub: [0x02],
    fields: { network: u16, token: text },
    answer: "network_ok",
  },
  "network.leave": { command: 0x1f, sub: [0x03], fields: { network: u16 }, answer: "network_ok" },
  "network.members": { command: 0x1f, sub: [0x04], fields: { network: u16 }, answer: "network_ok" },
  "network.invite": {
    command: 0x1f,
    sub: [0x05],
    fields: { network: u16, node: u32 },
    answer: "network_ok",
  },
  "network.poll_invites": { command: 0x1f, sub: [0x06], fields: {}, answer: "network_ok" },
  "network.respond_invite": {
    command: 0x1f,
    sub: [0x07],
    fields: { network: u16, accept: bool },
    answer: "network_ok",
  },
  health: { command: 0x21, fields: {}, answer: "health_ok" },
  "managed.status": { command: 0x23, sub: [0x02], fields: { network: u16 }, answer: "managed_ok" },
  "managed.cycle": { command: 0x23, sub: [0x04], fields: { network: u16 }, answer: "managed_ok" },
  "managed.policy_get": { command: 0x23, sub: [0x05, 0x00], fields: { network: u16 }, answer: "managed_ok" },
  /** `policy` is JSON. */
  "managed.policy_set": {
    command: 0x23,
    sub: [0x05, 0x01],
    fields: { network: u16, policy: text },
    answer: "managed_ok",
  },
  "managed.member_tags_get": {
    command: 0x23,
    sub: [0x06, 0x00],
    fields: { network: u16, node: u32 },
    answer: "managed_ok",
  },
  /** `tags` is a JSON array. */
  "managed.member_tags_set": {
    command: 0x23,
    sub: [0x06, 0x01],
    fields: { network: u16, node: u32, tags: text },
    answer: "managed_ok",
  },
  "managed.reconcile": { command: 0x23, sub: [0x07], fields: { network: u16 }, answer: "managed_ok" },
  rotate_key: { command: 0x25, fields: {}, answer: "rotate_key_ok" },
  broadcast: {
    command: 0x29,
    fields: { network: u16, port: u16, token: text16, data: bytes },
    answer: "broadcast_ok",
  },
} as const satisfies Record<string, RequestLayout>;

export type PilotRequestName = keyof typeof pilotRequests;

type FieldsOf<L extends Layout> = {
  -readonly [F in keyof L["fields"]]: L["fields"][F] extends Field<infer T> ? T : never;
};
type Messages<T extends Record<string, Layout>> = {
  [N in keyof T]: { name: N; fields: FieldsOf<T[N]> };
}[keyof T];
export type PilotRequest = Messages<typeof pilotRequests>;
export type PilotAnswer = Messages<typeof pilotAnswers>;
export type PilotRequestFields<N extends PilotRequestName> = FieldsOf<(typeof pilotRequests)[N]>;
export type PilotAnswerFields<N extends PilotAnswerName> = FieldsOf<(typeof pilotAnswers)[N]>;

export const isPilotRequestName = (text: string): text is PilotRequestName =>
  Object.hasOwn(pilotRequests, text);
export const isPilotAnswerName = (text: string): text is PilotAnswerName => Object.hasOwn(pilotAnswers, text);
export const pilotRequestNames = Object.keys(pilotRequests).filter(isPilotRequestName);
export const pilotAnswerNames = Object.keys(pilotAnswers).filter(isPilotAnswerName);

// ── Encoding ────────────────────────────────────────────────────────────────────────────────────────────────────────

/** A whole frame. Throws `frame_too_large`. */
export const encodePilotRequest = ({ name, fields }: PilotRequest): Uint8Array =>
  encode(pilotRequests[name], fields);

/** A whole frame. Throws `frame_too_large`. */
export const encodePilotAnswer = ({ name, fields }: PilotAnswer): Uint8Array =>
  encode(pilotAnswers[name], fields);

/** How long a frame is, its length not counted, of which these fields are known. */
export const payloadBytes = (
  { sub = [], fields }: Layout,
  values: Readonly<Record<string, unknown>>,
): number =>
  Object.entries(values).reduce(
    (bytes, [name, value]) => bytes + (fields[name]?.write(value).length ?? 0),
    1 + sub.length,
  );

function encode(
  { command, sub = [], fields }: Layout,
  values: Readonly<Record<string, unknown>>,
): Uint8Array {
  const parts: Uint8Array[] = [Uint8Array.of(command, ...sub)];
  for (const name in fields) parts.push(fields[name]?.write(values[name]) ?? none);
  return encodeFrame(Buffer.concat(parts), pilotFrameBytesMax);
}

const none = new Uint8Array();

// ── Decoding ────────────────────────────────────────────────────────────────────────────────────────────────────────

/** What a frame's bytes, of which there is at least one, mean. */
export type PilotRead<M> =
  | { kind: "message"; message: M }
  /** The command is known, and the payload ends before its fields do; `fields` are those before the end. */
  | {
      kind: "short";
      command: number;
      name: string | undefined;
      fields: Readonly<Record<string, unknown>>;
    }
  | { kind: "unknown_sub"; command: number; sub: number }
  | { kind: "unknown"; command: number };

/** `data` shares the memory of `frame`. */
export const decodePilotRequest = (frame: Uint8Array): PilotRead<PilotRequest> =>
  decode<PilotRequest>(requestsByCommand, frame);

/** `data` shares the memory of `frame`. */
export const decodePilotAnswer = (frame: Uint8Array): PilotRead<PilotAnswer> =>
  decode<PilotAnswer>(answersByCommand, frame);

type Rows = readonly (readonly [name: string, layout: Layout])[];

const byCommand = (table: Record<string, Layout>): ReadonlyMap<number, Rows> =>
  Map.groupBy(Object.entries(table), ([, { command }]) => command);
const requestsByCommand = byCommand(pilotRequests);
const answersByCommand = byCommand(pilotAnswers);

function decode<M>(commands: ReadonlyMap<number, Rows>, frame: Uint8Array): PilotRead<M> {
  const command = frame[0] ?? 0;
  const rows = commands.get(command);
  if (rows === undefined) return { kind: "unknown", command };
  const row = rows.find(([, { sub = [] }]) => sub.every((byte, index) => frame[1 + index] === byte));
  if (row === undefined) {
    // A sub-command of two bytes may have come with one.
    const [sub] = frame.subarray(1);
    const isBegun = rows.some(([, layout]) => layout.sub?.[0] === sub) && frame.length < 3;
    return sub === undefined || isBegun
      ? { kind: "short", command, name: undefined, fields: {} }
      : { kind: "unknown_sub", command, sub };
  }
  const [name, { sub = [], fields }] = row;
  const values: Record<string, unknown> = {};
  let at = 1 + sub.length;
  for (const field in fields) {
    const read = fields[field]?.read(frame, at);
    if (read === undefined) return { kind: "short", command, name, fields: values };
    values[field] = read.value;
    at = read.end;
  }
  // The row's fields, one by one: what the types say of the message is made from the same table.
  return { kind: "message", message: { name, fields: values } as M };
}
