/**
 * Everything that a Pilot binding can do with a connected handle, each once: what it sends, and what must come back. `covers` names
 * the commands of the table (wire/pilot.ts) that it exercises, so that a command without an endpoint is noticed.
 */
import { expect } from "bun:test";
import { address, type PilotClient, u16, u32 } from "./pilot-client";

export interface Endpoint {
  name: string;
  covers: readonly string[];
  /** `other` is a second handle on the same daemon. */
  drive(handle: PilotClient, other: PilotClient): Promise<void>;
}

/** `[command, reply, payload → JSON]` for what is asked and answered once. */
const json = (
  name: string,
  covers: string,
  command: number,
  reply: number,
  payload: (number | string | Uint8Array)[],
  answer: unknown,
): Endpoint => ({
  name,
  covers: [covers],
  async drive(handle) {
    expect(await handle.askJson(command, reply, ...payload)).toEqual(answer);
  },
});

const ok = { ok: true };
const network = { members: [], ok: true };
const managed = { ok: true, status: "idle" };
const target = address(1, 0x1234_abcd);

async function dial(handle: PilotClient, port = 4000): Promise<number> {
  return (await handle.ask(0x03, 0x04, target, u16(port))).readUInt32BE();
}

/** Of a push `07`: whose, and what. */
async function read(handle: PilotClient, timeoutMs?: number): Promise<{ id: number; data: string }> {
  const { payload } = await handle.push(0x07, timeoutMs);
  return { id: payload.readUInt32BE(), data: payload.toString("utf8", 4) };
}

export const endpoints: readonly Endpoint[] = [
  json("info", "info", 0x0d, 0x0e, [], {
    hostname: "mock-daemon",
    node_id: 305419896,
    peers: [],
    version: "mock-0.1.0",
  }),
  json("health", "health", 0x21, 0x22, [], { ok: true, uptime_secs: 0 }),
  json("rotate key", "rotate_key", 0x25, 0x26, [], { rotated: true }),
  json("deregister", "deregister", 0x17, 0x18, [], ok),

  json("handshake", "handshake.send", 0x0f, 0x10, [1, u32(7), "because"], ok),
  json("approve handshake", "handshake.approve", 0x0f, 0x10, [2, u32(7)], ok),
  json("reject handshake", "handshake.reject", 0x0f, 0x10, [3, u32(7), "no"], ok),
  json("pending handshakes", "handshake.pending", 0x0f, 0x10, [4], { pending: [] }),
  json("trusted peers", "handshake.trusted", 0x0f, 0x10, [5], { trusted: [] }),
  json("revoke trust", "handshake.revoke", 0x0f, 0x10, [6, u32(7)], ok),
  json("wait for trust", "handshake.wait", 0x0f, 0x10, [7, u32(7), u32(5000)], ok),

  json("resolve hostname", "resolve", 0x11, 0x12, ["büro"], { hostname: "büro", node_id: 195948557 }),
  json("set hostname", "set_hostname", 0x13, 0x14, ["kitchen"], { hostname: "kitchen" }),
  json("clear hostname", "set_hostname", 0x13, 0x14, [], { hostname: "" }),
  json("set visibility: public", "set_visibility", 0x15, 0x16, [1], { public: true }),
  json("set visibility: private", "set_visibility", 0x15, 0x16, [0], { public: false }),
  json("set tags", "set_tags", 0x19, 0x1a, ['["a","b"]'], ok),
  json("set webhook", "set_webhook", 0x1b, 0x1c, ["https://example.org/hook"], {
    url: "https://example.org/hook",
  }),
  json("clear webhook", "set_webhook", 0x1b, 0x1c, [], { url: "" }),

  json("networks", "network.list", 0x1f, 0x20, [1], network),
  json("join network", "network.join", 0x1f, 0x20, [2, u16(9), "token"], network),
  json("leave network", "network.leave", 0x1f, 0x20, [3, u16(9)], network),
  json("network members", "network.members", 0x1f, 0x20, [4, u16(9)], network),
  json("invite to network", "network.invite", 0x1f, 0x20, [5, u16(9), u32(7)], network),
  json("poll invites", "network.poll_invites", 0x1f, 0x20, [6], network),
  json("respond to invite", "network.respond_invite", 0x1f, 0x20, [7, u16(9), 1], network),

  json("managed status", "managed.status", 0x23, 0x24, [2, u16(9)], managed),
  json("managed cycle", "managed.cycle", 0x23, 0x24, [4, u16(9)], managed),
  json("get policy", "managed.policy_get", 0x23, 0x24, [5, 0, u16(9)], managed),
  json("set policy", "managed.policy_set", 0x23, 0x24, [5, 1, u16(9), '{"rules":[]}'], managed),
  json("get member tags", "managed.member_tags_get", 0x23, 0x24, [6, 0, u16(9), u32(7)], managed),
  json("set member tags", "managed.member_tags_set", 0x23, 0x24, [6, 1, u16(9), u32(7), '["a"]'], managed),
  json("reconcile", "managed.reconcile", 0x23, 0x24, [7, u16(9)], managed),

  {
    name: "listen",
    covers: ["bind"],
    async drive(handle) {
      expect((await handle.ask(0x01, 0x02, u16(4001))).readUInt16BE()).toBe(4001);
    },
  },
  {
    name: "dial",
    covers: ["dial"],
    async drive(handle, other) {
      const [first, second, third] = [await dial(handle), await dial(other), await dial(handle)];
      // One counter for all handles.
      expect([second - first, third - second]).toEqual([1, 1]);
    },
  },
  {
    name: "dial with a time limit",
    covers: ["dial"],
    async drive(handle) {
      handle.send(0x03, target, u16(4000));
      const { payload } = await handle.next(({ command }) => command === 0x04, 2_000);
      expect(payload).toHaveLength(4);
    },
  },
  {
    name: "accept",
    covers: ["bind", "dial"],
    async drive(handle, other) {
      await handle.ask(0x01, 0x02, u16(4002));
      const id = await dial(other, 4002);
      const { payload } = await handle.push(0x05);
      const dialler = Buffer.concat([address(1, 0xaaaa_bbbb), u16(0xdead)]);
      expect(payload).toEqual(Buffer.concat([u16(4002), u32(id), dialler]));
    },
  },
  {
    name: "write, and read it back",
    covers: ["send"],
    async drive(handle) {
      const id = await dial(handle);
      for (const data of ["hello", "", "x".repeat(100_000)]) {
        handle.send(0x06, u32(id), data);
        expect(await read(handle)).toEqual({ id, data });
      }
    },
  },
  {
    name: "read what was written on several connections",
    covers: ["send"],
    async drive(handle) {
      const ids = [await dial(handle), await dial(handle)];
      for (const id of ids) handle.send(0x06, u32(id), `to ${id}`);
      for (const id of ids) expect(await read(handle)).toEqual({ id, data: `to ${id}` });
    },
  },
  {
    name: "read with a deadline that passes",
    covers: ["dial"],
    async drive(handle) {
      await dial(handle);
      await expect(read(handle, 1)).rejects.toThrow("in time");
    },
  },
  {
    name: "close a connection",
    covers: ["close"],
    async drive(handle) {
      const id = await dial(handle);
      expect((await handle.ask(0x08, 0x09, u32(id))).readUInt32BE()).toBe(id);
    },
  },
  {
    name: "disconnect by id",
    covers: ["close"],
    async drive(handle, other) {
      const id = await dial(other);
      expect((await handle.ask(0x08, 0x09, u32(id))).readUInt32BE()).toBe(id);
    },
  },
  {
    name: "send a datagram",
    covers: ["send_to"],
    async drive(handle) {
      handle.send(0x0b, target, u16(53), "query");
      // No reply: the next answer is that of the next request.
      expect(await handle.askJson(0x21, 0x22)).toEqual({ ok: true, uptime_secs: 0 });
      await handle.push(0x0c);
    },
  },
  {
    name: "receive a datagram",
    covers: ["send_to"],
    async drive(handle) {
      handle.send(0x0b, target, u16(53), "query");
      const { payload } = await handle.push(0x0c);
      expect(payload).toEqual(Buffer.concat([target, u16(0xdead), u16(53), Buffer.from("query")]));
    },
  },
  {
    name: "broadcast",
    covers: ["broadcast"],
    async drive(handle) {
      expect(await handle.ask(0x29, 0x2a, u16(9), u16(53), u16(5), "token", "data")).toHaveLength(0);
    },
  },
  {
    name: "listen on a port that another handle had",
    covers: ["bind", "dial"],
    async drive(handle, other) {
      await other.ask(0x01, 0x02, u16(4003));
      await handle.ask(0x01, 0x02, u16(4003));
      await dial(other, 4003);
      expect((await handle.push(0x05)).payload.readUInt16BE()).toBe(4003);
    },
  },
];
