/** What a shim does, as a table: every state it can be in against everything that can happen. */
import { describe, expect, test } from "bun:test";
import type { TokenUsage } from "~/agent/runtime";
import { type Effect, type Happening, initialShimState, type ShimState, stepShim } from "~/agent/state";
import type { ShimCommand } from "~/wire/shim";

/** An effect in a few words: the table is to be read. */
function brief(effect: Effect): string {
  switch (effect.kind) {
    case "tell":
    case "answer": {
      const { event, ...fields } = effect.event;
      const shown: Record<string, unknown> = fields;
      const words = [
        "from",
        "to",
        "id",
        "message_id",
        "exit_code",
        "command",
        "response",
        "state",
        "idle_secs",
      ]
        .filter((name) => shown[name] !== undefined && shown[name] !== null)
        .map((name) => shown[name]);
      return [effect.kind === "answer" ? `@${effect.peer}` : "", event, ...words].join(" ").trim();
    }
    case "set_timer":
      return `timer ${effect.name} ${effect.delayMs}`;
    case "cancel_timer":
      return `no ${effect.name}`;
    case "submit":
      return `submit ${effect.body}`;
    default:
      return effect.kind;
  }
}

class World {
  state: ShimState = initialShimState(0);
  nowMs = 0;
  #deaths = 0;

  take(...happenings: Happening[]): string[] {
    return happenings.flatMap((happening) => {
      const { state, effects } = stepShim(this.state, happening, this.nowMs);
      this.state = state;
      this.#deaths += effects.filter(
        (effect) => effect.kind === "tell" && effect.event.event === "Died",
      ).length;
      expect(this.#deaths).toBeLessThan(2);
      return effects.map(brief);
    });
  }

  after(ms: number, ...happenings: Happening[]): string[] {
    this.nowMs += ms;
    return this.take(...happenings);
  }
}

const saw = (sight: "idle" | "working" | "exhausted" | "approaching"): Happening => ({
  kind: "saw",
  sight,
  text: `it is ${sight}`,
  lastLines: "lines",
});
const command = (value: ShimCommand, peer = 1): Happening => ({ kind: "command", peer, command: value });
const message = (id: string | undefined, body = `text of ${id}`): Happening =>
  command({ cmd: "SendMessage", from: "ann", body, ...(id === undefined ? {} : { message_id: id }) });
const shutdown = (timeout_secs: number): Happening =>
  command({ cmd: "Shutdown", timeout_secs, reason: "requested" });
const kill = command({ cmd: "Kill" });
const abandoned: Happening = { kind: "abandoned" };
const collected: Happening = { kind: "collected", response: "answer", lastLines: "lines" };
const ended = (code: number | null, signal: string | null = null): Happening => ({
  kind: "ended",
  code,
  signal,
  lastLines: "lines",
});
const timer = (name: "startup" | "settled" | "stats" | "shutdown", outputBytes = 0): Happening => ({
  kind: "timer",
  name,
  outputBytes,
});
const usage = (used: number, limit: number): Happening => {
  const tokens: TokenUsage = {
    model: "m",
    input: 3,
    cachedInput: 0,
    cacheCreationInput: 0,
    cacheReadInput: 0,
    output: 4,
    reasoningOutput: 0,
    used,
    limit,
  };
  return { kind: "usage", usage: tokens, outputBytes: 9 };
};

/** How to get there, each from the beginning. */
const situations = {
  starting: [{ kind: "started" }],
  "starting, one waits": [{ kind: "started" }, message("w")],
  idle: [{ kind: "started" }, saw("idle")],
  submitting: [{ kind: "started" }, saw("idle"), message("a")],
  working: [{ kind: "started" }, saw("idle"), message("a"), { kind: "submitted" }],
  "working by itself": [{ kind: "started" }, saw("working")],
  "working, one waits": [{ kind: "started" }, saw("idle"), message("a"), { kind: "submitted" }, message("w")],
  exhausted: [{ kind: "started" }, saw("idle"), saw("exhausted")],
  interrupted: [{ kind: "started" }, saw("idle"), shutdown(5)],
  killed: [{ kind: "started" }, saw("idle"), kill],
  abandoned: [{ kind: "started" }, saw("idle"), abandoned],
  dead: [{ kind: "started" }, saw("idle"), ended(3)],
} satisfies Record<string, Happening[]>;
type Situation = keyof typeof situations;

const dying = ["no startup", "no settled", "no stats", "no shutdown"];

/** What happens then, after a second. What is not in a row is nothing at all. */
const table: Record<string, { happening: Happening; does: Partial<Record<Situation, string[]>> }> = {
  "the screen says idle": {
    happening: saw("idle"),
    does: {
      starting: ["no startup", "StateChanged starting idle", "Ready"],
      "starting, one waits": ["no startup", "StateChanged starting idle", "Ready", "submit text of w"],
      working: ["StateChanged working idle", "collect"],
      "working by itself": ["StateChanged working idle", "Ready"],
      "working, one waits": ["StateChanged working idle", "collect"],
    },
  },
  "the screen says working": {
    happening: saw("working"),
    does: {
      starting: ["no startup", "StateChanged starting working"],
      "starting, one waits": ["no startup", "StateChanged starting working"],
      idle: ["StateChanged idle working"],
      working: ["no settled"],
      "working by itself": ["no settled"],
      "working, one waits": ["no settled"],
      interrupted: ["StateChanged idle working"],
      killed: ["StateChanged idle working"],
      abandoned: ["StateChanged idle working"],
    },
  },
  "the context is full": {
    happening: saw("exhausted"),
    does: {
      ...everywhere(
        [
          "starting",
          "idle",
          "submitting",
          "working",
          "working by itself",
          "interrupted",
          "killed",
          "abandoned",
        ],
        (state) => [
          "no startup",
          "no settled",
          `StateChanged ${state} context_exhausted`,
          "ContextExhausted",
        ],
      ),
      "starting, one waits": [
        "no startup",
        "no settled",
        "StateChanged starting context_exhausted",
        "ContextExhausted",
        "DeliveryFailed w",
      ],
      "working, one waits": [
        "no startup",
        "no settled",
        "StateChanged working context_exhausted",
        "ContextExhausted",
        "DeliveryFailed w",
      ],
    },
  },
  "the context will be full": {
    happening: saw("approaching"),
    does: everywhere(
      [
        "starting",
        "starting, one waits",
        "idle",
        "submitting",
        "working",
        "working by itself",
        "working, one waits",
        "exhausted",
        "interrupted",
        "killed",
        "abandoned",
      ],
      () => ["ContextApproaching"],
    ),
  },
  "a message": {
    happening: message("b"),
    does: {
      ...everywhere(
        [
          "starting",
          "starting, one waits",
          "submitting",
          "working",
          "working by itself",
          "working, one waits",
        ],
        () => ["Warning"],
      ),
      ...everywhere(["exhausted", "interrupted", "killed", "abandoned", "dead"], () => ["DeliveryFailed b"]),
      idle: ["submit text of b"],
    },
  },
  "a message without an id": {
    happening: message(undefined, "text"),
    does: {
      ...everywhere(
        [
          "starting",
          "starting, one waits",
          "submitting",
          "working",
          "working by itself",
          "working, one waits",
        ],
        () => ["Warning"],
      ),
      ...everywhere(["exhausted", "interrupted", "killed", "abandoned", "dead"], () => ["Error SendMessage"]),
      idle: ["submit text"],
    },
  },
  "it is submitted": {
    happening: { kind: "submitted" },
    does: { submitting: ["MessageDelivered a", "StateChanged idle working"] },
  },
  "it could not be submitted": {
    happening: { kind: "not_submitted", reason: "no" },
    does: { submitting: ["DeliveryFailed a"] },
  },
  "an answer, though none was read": { happening: collected, does: {} },
  "a ping": { happening: command({ cmd: "Ping" }, 7), does: everywhere(all(), () => ["@7 Pong"]) },
  "a question for the state": {
    happening: command({ cmd: "GetState" }, 7),
    does: everywhere(all(), (state) => [`@7 State ${state}`]),
  },
  "a question for the screen": {
    happening: command({ cmd: "CaptureScreen", last_n_lines: 3 }, 7),
    does: everywhere(all(), () => ["capture"]),
  },
  "another size": {
    happening: command({ cmd: "Resize", rows: 10, cols: 20 }, 7),
    does: { ...everywhere(all(), () => ["resize"]), dead: ["@7 Error Resize"] },
  },
  "too large a size": {
    happening: command({ cmd: "Resize", rows: 10, cols: 65_535 }, 7),
    does: everywhere(all(), () => ["@7 Error Resize"]),
  },
  "a frame that is no command": {
    happening: { kind: "misunderstood", peer: 7, name: "Dance", reason: "no" },
    does: everywhere(all(), () => ["@7 Error Dance"]),
  },
  "a shutdown": {
    happening: shutdown(9),
    does: {
      ...everywhere(["starting", "idle", "submitting", "working", "working by itself", "exhausted"], () => [
        "interrupt",
        "timer shutdown 9000",
      ]),
      "starting, one waits": ["DeliveryFailed w", "interrupt", "timer shutdown 9000"],
      "working, one waits": ["DeliveryFailed w", "interrupt", "timer shutdown 9000"],
      interrupted: ["timer shutdown 9000"],
      dead: ["leave"],
    },
  },
  "a shutdown at once": {
    happening: shutdown(0),
    does: {
      ...everywhere(["starting", "idle", "submitting", "working", "working by itself", "exhausted"], () => [
        "interrupt",
        "no shutdown",
        "end_agent",
      ]),
      "starting, one waits": ["DeliveryFailed w", "interrupt", "no shutdown", "end_agent"],
      "working, one waits": ["DeliveryFailed w", "interrupt", "no shutdown", "end_agent"],
      interrupted: ["no shutdown", "end_agent"],
      dead: ["leave"],
    },
  },
  "a kill": { happening: kill, does: killing() },
  "nobody is there any more": { happening: abandoned, does: killing() },
  "some of it cannot be ended": {
    happening: { kind: "not_ended", message: "7 and 8 go on" },
    does: { ...everywhere(all(), () => ["Warning"]), abandoned: ["Warning", "leave"] },
  },
  "the end of the process": {
    happening: ended(5),
    does: {
      ...everywhere(["starting", "idle", "working", "working by itself", "exhausted"], (state) => [
        ...dying,
        `StateChanged ${state} dead`,
        "Died 5",
      ]),
      "starting, one waits": [...dying, "StateChanged starting dead", "Died 5", "DeliveryFailed w"],
      "working, one waits": [...dying, "StateChanged working dead", "Died 5", "DeliveryFailed w"],
      submitting: [...dying, "StateChanged idle dead", "Died 5", "DeliveryFailed a"],
      interrupted: [...dying, "StateChanged idle dead", "Died 5", "leave"],
      killed: [...dying, "StateChanged idle dead", "Died 5", "leave"],
      abandoned: [...dying, "StateChanged idle dead", "Died 5", "leave"],
    },
  },
  "no prompt for too long": {
    happening: timer("startup"),
    does: {
      starting: ["Error startup", "no shutdown", "end_agent"],
      "starting, one waits": ["Error startup", "DeliveryFailed w", "no shutdown", "end_agent"],
    },
  },
  "time for numbers": {
    happening: timer("stats"),
    does: everywhere(
      all().filter((situation) => situation !== "dead"),
      () => ["SessionStats", "timer stats 10000"],
    ),
  },
  "the time to shut down is over": {
    happening: timer("shutdown"),
    does: { interrupted: ["no shutdown", "end_agent"] },
  },
  "it has worked long enough, if it was seen idle": { happening: timer("settled"), does: {} },
  "tokens, and few": { happening: usage(10, 100), does: {} },
  "tokens, and many": {
    happening: usage(80, 100),
    does: everywhere(
      all().filter((situation) => situation !== "dead"),
      () => ["ContextWarning"],
    ),
  },
  "a warning": {
    happening: { kind: "warned", message: "look" },
    does: everywhere(all(), () => ["Warning"]),
  },
};

function all(): Situation[] {
  return Object.keys(situations).filter((name): name is Situation => name in situations);
}

function everywhere(
  where: readonly Situation[],
  what: (state: string) => string[],
): Partial<Record<Situation, string[]>> {
  return Object.fromEntries(where.map((situation) => [situation, what(stateIn(situation))]));
}

function stateIn(situation: Situation): string {
  const world = new World();
  world.take(...situations[situation]);
  return world.state.name;
}

function killing(): Partial<Record<Situation, string[]>> {
  return {
    ...everywhere(
      ["starting", "idle", "submitting", "working", "working by itself", "exhausted", "interrupted"],
      () => ["no shutdown", "end_agent"],
    ),
    "starting, one waits": ["DeliveryFailed w", "no shutdown", "end_agent"],
    "working, one waits": ["DeliveryFailed w", "no shutdown", "end_agent"],
    // It may not have worked the first time.
    killed: ["no shutdown", "end_agent"],
    abandoned: ["no shutdown", "end_agent"],
    dead: ["leave"],
  };
}

for (const [name, { happening, does }] of Object.entries(table)) {
  describe(name, () => {
    test.each(all())("%s", (situation) => {
      const world = new World();
      world.take(...situations[situation]);
      expect(world.after(1_000, happening)).toEqual(does[situation] ?? []);
    });
  });
}

describe("a message from beginning to end", () => {
  test("idle, working for at least 300 ms, idle, and the answer last", () => {
    const world = new World();
    world.take(...situations.submitting);
    // What is seen while it is handed over is about what was before.
    expect(world.take(saw("working"), saw("idle"))).toEqual([]);
    expect(world.take({ kind: "submitted" })).toEqual(["MessageDelivered a", "StateChanged idle working"]);
    expect(world.after(100, saw("idle"))).toEqual(["timer settled 200"]);
    expect(world.after(100, saw("working"))).toEqual(["no settled"]);
    expect(world.after(50, saw("idle"))).toEqual(["timer settled 50"]);
    expect(world.after(50, timer("settled"))).toEqual(["StateChanged working idle", "collect"]);
    expect(world.take(collected)).toEqual(["Completion a answer"]);
  });

  test("the next one only after the completion, in order, and no more than 16 wait", () => {
    const world = new World();
    world.take(...situations.working);
    for (let n = 1; n <= 16; n++) expect(world.take(message(`q${n}`))).toEqual(["Warning"]);
    expect(world.take(message("q17"))).toEqual(["DeliveryFailed q17"]);
    for (let n = 1; n <= 16; n++) {
      expect(world.after(300, saw("idle"))).toEqual(["StateChanged working idle", "collect"]);
      // While the answer is read, one more waits, though the state is idle.
      if (n === 1) expect(world.take(message("q18"))).toEqual(["DeliveryFailed q18"]);
      expect(world.take(collected)).toEqual([
        `Completion ${n === 1 ? "a" : `q${n - 1}`} answer`,
        `submit text of q${n}`,
      ]);
      expect(world.take({ kind: "submitted" })).toEqual([
        `MessageDelivered q${n}`,
        "StateChanged idle working",
      ]);
    }
  });

  test("one that could not be handed over makes room for the next", () => {
    const world = new World();
    world.take(...situations.submitting, message("b"));
    expect(world.take({ kind: "not_submitted", reason: "no" })).toEqual([
      "DeliveryFailed a",
      "submit text of b",
    ]);
  });

  test("one without an id is neither reported as delivered nor named in the completion", () => {
    const world = new World();
    world.take(...situations.idle, message(undefined));
    expect(world.take({ kind: "submitted" })).toEqual(["StateChanged idle working"]);
    expect(world.after(300, saw("idle"), collected)).toEqual([
      "StateChanged working idle",
      "collect",
      "Completion answer",
    ]);
  });

  test("an agent that ends while its answer is read has answered", () => {
    const world = new World();
    world.take(...situations.working, kill);
    world.after(300, saw("idle"));
    expect(world.take(ended(0))).toEqual([...dying, "StateChanged idle dead", "Died 0"]);
    expect(world.take(collected)).toEqual(["Completion a answer", "leave"]);
  });

  test.each([
    ["a kill", kill],
    ["a shutdown", shutdown(5)],
    ["the last orchestrator leaves", abandoned],
  ])("an answer that is being read when the agent has ended is told before the shim goes: %s", (_, end) => {
    const world = new World();
    world.take(...situations.working);
    world.after(300, saw("idle"), ended(0));
    expect(world.take(end)).toEqual([]);
    expect(world.take(collected)).toEqual(["Completion a answer", "leave"]);
  });

  test("what the agent begins by itself meanwhile goes before the next message", () => {
    const world = new World();
    world.take(...situations["working, one waits"]);
    world.after(300, saw("idle"), saw("working"));
    expect(world.take(collected)).toEqual(["Completion a answer", "StateChanged idle working"]);
    expect(world.after(300, saw("idle"))).toEqual(["StateChanged working idle", "submit text of w"]);
  });
});

test("an agent that could not be started: what was asked for before is answered, and what is asked for then", () => {
  const world = new World();
  expect(world.take({ kind: "not_started", reason: "there is no such program" })).toEqual([
    "Error startup",
    "StateChanged starting dead",
  ]);
  expect(world.take(message("early"), command({ cmd: "Ping" }), kill)).toEqual([
    "DeliveryFailed early",
    "@1 Pong",
    "leave",
  ]);
});

describe("once, and not again", () => {
  test("ready", () => {
    const world = new World();
    const told = world.take(...situations["working by itself"], saw("idle"), saw("working"));
    told.push(...world.after(300, saw("idle"), saw("working")), ...world.after(300, saw("idle")));
    expect(told.filter((effect) => effect === "Ready")).toEqual(["Ready"]);
  });

  test("approaching, and exhausted", () => {
    const world = new World();
    world.take(...situations.idle);
    const told = world.take(saw("approaching"), saw("approaching"), saw("exhausted"), saw("exhausted"));
    expect(told.filter((effect) => effect.startsWith("Context"))).toEqual([
      "ContextApproaching",
      "ContextExhausted",
    ]);
  });

  test("usage, until it has been low again", () => {
    const world = new World();
    world.take(...situations.idle);
    const told = world.take(
      usage(79, 100),
      usage(80, 100),
      usage(99, 100),
      usage(10, 100),
      usage(85, 100),
      usage(5, 0),
    );
    expect(told).toEqual(["ContextWarning", "ContextWarning"]);
  });

  test("a percentage beyond what the wire holds stays at its end", () => {
    const { state } = stepShim(initialShimState(0), usage(100_000, 10), 0);
    const { effects } = stepShim(state, timer("stats", 5), 12_345);
    expect(effects[0]).toEqual({
      kind: "tell",
      event: {
        event: "SessionStats",
        output_bytes: 5,
        uptime_secs: 12,
        input_tokens: 3,
        output_tokens: 4,
        context_usage_pct: 255,
      },
    });
  });

  test("stalled, until something is printed again", () => {
    const world = new World();
    world.take(...situations.working);
    expect(world.after(10_000, timer("stats", 5))).toEqual(["SessionStats", "timer stats 10000"]);
    expect(world.after(299_000, timer("stats", 5))).not.toContain("Warning 299");
    expect(world.after(1_000, timer("stats", 5))).toEqual([
      "SessionStats",
      "Warning 300",
      "timer stats 10000",
    ]);
    expect(world.after(10_000, timer("stats", 5))).toEqual(["SessionStats", "timer stats 10000"]);
    world.after(10_000, timer("stats", 6));
    expect(world.after(300_000, timer("stats", 6))).toEqual([
      "SessionStats",
      "Warning 300",
      "timer stats 10000",
    ]);
  });
});

test("an agent that showed no prompt is ended, and its shim still answers", () => {
  const world = new World();
  world.take(...situations.starting);
  expect(world.after(120_000, timer("startup"))).toEqual(["Error startup", "no shutdown", "end_agent"]);
  expect(world.take(ended(null, "SIGTERM"))).toEqual([...dying, "StateChanged starting dead", "Died"]);
  expect(world.take(command({ cmd: "Ping" }))).toEqual(["@1 Pong"]);
  expect(world.take({ kind: "abandoned" })).toEqual(["leave"]);
});
