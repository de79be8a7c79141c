/**
 * Stands between members and their broker, at an address of its own: records every frame and every HTTP body, and lets a test
 * change, hold back or cut off what passes. The mesh must be made with the tap's address (`brokerUrl` of startMesh).
 */
import type { ServerWebSocket } from "bun";
import { cleanup } from "../support/cleanup";

export interface Passing {
  /** Counts connections from 1. */
  connection: number;
  from: "member" | "broker";
  text: string;
  frame: Record<string, unknown>;
}

interface Pipe {
  connection: number;
  upstream: WebSocket | undefined;
  waiting: string[];
}

export interface WireTap {
  /** Tells members where to connect to. */
  urlFor(brokerUrl: string): string;
  /** Everything that passed or was held back, in order. */
  passed: Passing[];
  /** HTTP bodies, both ways. */
  bodies: string[];
  /** Decides about each frame: the text that goes on, or nothing. Default: everything goes on as it is. */
  onFrame: (passing: Passing) => string | undefined;
  /** What the answer to an HTTP request waits for, once the broker has given it. */
  beforeAnswer: (path: string) => Promise<void> | undefined;
  /** Cuts every connection, without a closing handshake. */
  cut(): void;
  /** Refuses connections until `open` is called. */
  shut(): void;
  open(): void;
}

export function openWireTap(): WireTap {
  let brokerUrl = "";
  let isShut = false;
  let connections = 0;
  const live = new Set<ServerWebSocket<Pipe>>();
  const pass = (pipe: Pipe, from: Passing["from"], text: string): string | undefined => {
    const frame: Record<string, unknown> = { ...JSON.parse(text) };
    const passing = { connection: pipe.connection, from, text, frame };
    tap.passed.push(passing);
    return tap.onFrame(passing);
  };
  const server = Bun.serve<Pipe>({
    hostname: "127.0.0.1",
    port: 0,
    async fetch(request, self) {
      if (isShut) return new Response("shut", { status: 503 });
      const { pathname } = new URL(request.url);
      if (request.headers.get("upgrade") !== null) {
        connections += 1;
        const data = { connection: connections, upstream: undefined, waiting: [] };
        return self.upgrade(request, { data }) ? undefined : new Response(null, { status: 400 });
      }
      const body = await request.text();
      const answer = await fetch(new URL(pathname, brokerUrl.replace(/^ws/, "http")), {
        method: request.method,
        headers: { authorization: request.headers.get("authorization") ?? "" },
        ...(request.method === "POST" ? { body } : {}),
      });
      const text = await answer.text();
      tap.bodies.push(body, text);
      await tap.beforeAnswer(pathname);
      return new Response(text, { status: answer.status, headers: { "content-type": "application/json" } });
    },
    websocket: {
      open(ws) {
        live.add(ws);
        const upstream = new WebSocket(brokerUrl);
        ws.data.upstream = upstream;
        upstream.addEventListener("open", () => {
          for (const text of ws.data.waiting.splice(0)) upstream.send(text);
        });
        upstream.addEventListener("message", ({ data }) => {
          const text = pass(ws.data, "broker", String(data));
          if (text !== undefined && live.has(ws)) ws.send(text);
        });
        upstream.addEventListener("close", ({ code, reason }) => {
          if (!live.delete(ws)) return;
          if (code >= 1000 && code < 5000 && ![1004, 1005, 1006, 1015].includes(code)) ws.close(code, reason);
          else ws.terminate();
        });
      },
      message(ws, data) {
        const text = pass(ws.data, "member", String(data));
        if (text === undefined) return;
        const { upstream, waiting } = ws.data;
        if (upstream?.readyState === WebSocket.OPEN) upstream.send(text);
        else waiting.push(text);
      },
      close(ws) {
        live.delete(ws);
        ws.data.upstream?.terminate();
      },
    },
  });
  const cut = (): void => {
    for (const ws of [...live]) {
      live.delete(ws);
      ws.data.upstream?.terminate();
      ws.terminate();
    }
  };
  cleanup(async () => {
    cut();
    await server.stop(true);
  });
  const tap: WireTap = {
    urlFor(url) {
      brokerUrl = url;
      return `ws://127.0.0.1:${server.port}/ws`;
    },
    passed: [],
    bodies: [],
    onFrame: ({ text }) => text,
    beforeAnswer: () => undefined,
    cut,
    shut() {
      isShut = true;
      cut();
    },
    open() {
      isShut = false;
    },
  };
  return tap;
}
