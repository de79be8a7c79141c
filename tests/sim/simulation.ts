/**
 * One world from one seed: a broker and some daemons, callers that behave and callers that do not, and faults of every
 * kind; then everything heals, and everything must come to rest. The checkers watch all the time.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { defaultBounds } from "~/broker/bounds";
import { defaultSettings } from "~/broker/settings";
import { asMeshError } from "~/errors";
import { openSealer } from "~/identity/sealer";
import { connectionPolicies } from "~/wire/broker";
import type { Priority } from "~/wire/text";
import { type Engine, people, SimBroker, SimDaemon, soundEngine } from "./actors";
import { Checkers, type Content, marker, type Told, Violation } from "./checkers";
import { Network } from "./network";
import type { SimDatabase } from "./storage";
import { World } from "./world";

export interface Outcome {
  simulatedMs: number;
  steps: number;
  sends: number;
  faults: number;
  frames: number;
}

export class SimulationFailure extends Error {
  constructor(seed: number, atMs: number, cause: unknown) {
    const what = cause instanceof Error ? cause.message : String(cause);
    super(`seed ${seed}, after ${Math.round(atMs)} simulated ms: ${what}`, { cause });
  }
}

export async function simulate(seed: number, engine: Engine = soundEngine): Promise<Outcome> {
  const directory = mkdtempSync(join(tmpdir(), "cms-"));
  const simulation = new Simulation(seed, engine, directory, await openSealer());
  try {
    return await simulation.run();
  } catch (error) {
    throw new SimulationFailure(seed, simulation.world.elapsedMs, error);
  } finally {
    simulation.close();
    rmSync(directory, { recursive: true, force: true });
  }
}

const healMs = 2 * 3600 * 1000;

class Simulation {
  readonly world: World;
  readonly #network: Network;
  readonly #broker: SimBroker;
  readonly #daemons: SimDaemon[];
  readonly #checkers: Checkers;
  readonly #removed = new Set<string>();
  #sends = 0;
  #faults = 0;
  #bodies = 0;
  #stormy = true;
  /** What callers remember to ask again, rightly and wrongly. */
  readonly #asked: { daemon: SimDaemon; id: string; content: Content }[] = [];
  #violation: unknown;

  constructor(
    seed: number,
    engine: Engine,
    directory: string,
    sealer: Awaited<ReturnType<typeof openSealer>>,
  ) {
    this.world = new World(seed);
    const { chance } = this.world;
    const folk = people.slice(0, 2 + chance.below(3));
    this.#checkers = new Checkers(folk.map((person) => person.keys.secretKey.slice(0, 64)));
    this.#network = new Network(this.world, {
      frame: (text, from, daemon) => this.#watch(() => this.#checkers.frame(text, from, daemon)),
    });
    this.#network.faults.cut = chance.pick([0, 0.001, 0.005, 0.02]);
    this.#network.faults.delayMsMax = chance.pick([2, 50, 2_000]);
    this.#broker = new SimBroker(
      this.world,
      this.#network,
      {
        ...defaultBounds,
        sendsPerRateWindowMax: chance.pick([3, 20, 50_000]),
        queuedPerRecipientMax: chance.pick([4, 100_000]),
        queueFullRetryAfterMs: 1_000,
        leasesPerConnectionMax: chance.pick([1, 3, 256]),
      },
      { ...defaultSettings, connectionPolicy: chance.pick(connectionPolicies) },
      engine,
    );
    const entries = this.#broker.admit(folk);
    this.#daemons = folk.map((person, index) => {
      const entry = entries[index];
      if (entry === undefined) throw new Error("a person without an entry");
      return new SimDaemon(person, entry, this.world, this.#network, engine, sealer, directory);
    });
  }

  async run(): Promise<Outcome> {
    const { chance } = this.world;
    this.#broker.start();
    for (const daemon of this.#daemons) daemon.start();
    for (const db of this.#databases()) db.faults.crash = chance.pick([0, 0.002, 0.01]);
    const stormMs = 10_000 + chance.below(40_000);
    for (const daemon of this.#daemons)
      for (let caller = 0; caller <= chance.below(3); caller++) this.#act(daemon);
    this.#nextFault();
    await this.#runUntil(stormMs, () => false);
    this.#heal();
    await this.#runUntil(stormMs + healMs, () => this.#isAtRest());
    this.#checkers.finally(this.#daemons, this.#broker, this.#removed);
    return {
      simulatedMs: this.world.elapsedMs,
      steps: this.world.steps,
      sends: this.#sends,
      faults:
        this.#faults + this.#network.injected + this.#databases().reduce((sum, db) => sum + db.injected, 0),
      frames: this.#checkers.frames,
    };
  }

  close(): void {
    for (const daemon of this.#daemons) daemon.process.die();
    this.#broker.process.die();
    for (const db of [...this.#databases(), ...this.#daemons.map((daemon) => daemon.directoryDb)]) db.close();
  }

  async #runUntil(untilMs: number, isEnough: () => boolean): Promise<void> {
    let checked = 0;
    while (await this.world.step(untilMs)) {
      if (this.#violation !== undefined) throw this.#violation;
      this.#reviveTheDead();
      if (this.world.steps - checked < 200) continue;
      checked = this.world.steps;
      this.#checkers.always(this.#daemons, this.#broker);
      if (isEnough()) return;
    }
  }

  /** A checker that throws inside a process must not be mistaken for that process's own failure. */
  #watch(check: () => void): void {
    try {
      check();
    } catch (violation) {
      this.#violation ??= violation;
    }
  }

  #databases(): SimDatabase[] {
    return [this.#broker.db, ...this.#daemons.flatMap((daemon) => [daemon.outboxDb, daemon.inboxDb])];
  }

  #isAtRest(): boolean {
    const living = this.#daemons.filter((daemon) => !this.#removed.has(daemon.person.name));
    const waiting = living.reduce(
      (sum, { outbox }) => sum + outbox.counts().pending + outbox.counts().inflight,
      0,
    );
    // What is stored as a problem was acknowledged, and becomes a message once its sender is known.
    const doubtful = living.reduce(
      (sum, { inbox }) =>
        sum +
        living.reduce(
          (n, { person }) => n + inbox.waitingForSender(this.#broker.meshId, person.keys.publicKey).length,
          0,
        ),
      0,
    );
    const undelivered = this.#broker.db
      .query<{ n: number }, []>("SELECT count(*) AS n FROM deliveries WHERE delivered_at IS NULL")
      .get();
    return waiting === 0 && doubtful === 0 && (undelivered?.n ?? 0) === 0;
  }

  // ── Callers ───────────────────────────────────────────────────────────────────────────────────────────────────────

  #act(daemon: SimDaemon): void {
    const { chance } = this.world;
    this.world.schedule(chance.next() * 3_000, () => {
      if (!this.#stormy) return;
      this.#act(daemon);
      if (!daemon.process.alive) return;
      const burst = chance.happens(0.05) ? 20 : 1;
      for (let n = 0; n < burst; n++) this.#actOnce(daemon);
    });
  }

  #actOnce(daemon: SimDaemon): void {
    const { chance } = this.world;
    const earlier = this.#asked.filter((asked) => asked.daemon === daemon);
    const what = chance.next();
    if (earlier.length > 0 && what < 0.25) {
      const again = chance.pick(earlier);
      this.#send(daemon, again.id, again.content);
    } else if (earlier.length > 0 && what < 0.35) {
      this.#send(daemon, chance.pick(earlier).id, this.#newContent(daemon));
    } else if (earlier.length > 0 && what < 0.42) {
      this.#requeue(daemon, chance.pick(earlier).id);
    } else {
      const content = this.#newContent(daemon);
      const id = `${daemon.person.name}-${this.#bodies}`;
      this.#asked.push({ daemon, id, content });
      this.#send(daemon, id, content);
    }
  }

  #newContent(daemon: SimDaemon): Content {
    const { chance } = this.world;
    const to = chance.pick(this.#daemons.filter((other) => other !== daemon)).person.name;
    return {
      to,
      body: `${marker} ${this.#bodies++}`,
      priority: chance.pick<Priority>(["now", "next", "next", "low"]),
    };
  }

  #send(daemon: SimDaemon, id: string, content: Content): void {
    this.#sends++;
    const { process, handlers } = daemon;
    const name = daemon.person.name;
    if (handlers === undefined) return;
    this.#checkers.asked(name, id, content);
    const body = {
      to: content.to,
      message: content.body,
      client_message_id: id,
      priority: priorityOf(content.priority),
    };
    void Promise.resolve(handlers.send({ ...call, body, query: undefined as never }))
      .then(
        (): Told => ({ kind: "accepted" }),
        (error: unknown): Told => {
          const { code, details } = asMeshError(error);
          if (code === "idempotency_key_reused")
            return { kind: "conflict", reason: String(details.conflict) };
          // A name that is gone from the list: the member was removed.
          if (this.#removed.size > 0 && (code === "unknown_peer" || code === "self_destination"))
            return { kind: "nothing" };
          return { kind: "failed", code };
        },
      )
      // Nobody hears what a dead process says.
      .then((told) =>
        this.#watch(() =>
          this.#checkers.told(daemon, id, content, process.alive ? told : { kind: "nothing" }),
        ),
      );
  }

  #requeue(daemon: SimDaemon, id: string): void {
    const { process, handlers } = daemon;
    if (handlers === undefined) return;
    const newId = `${id}-again-${this.#bodies++}`;
    const body = { id, new_client_message_id: newId };
    Promise.resolve(handlers.requeue({ ...call, body, query: undefined as never })).then(
      () => {
        if (process.alive) this.#watch(() => this.#checkers.requeued(daemon, id, newId));
      },
      (error: unknown) => {
        const { code } = asMeshError(error);
        const allowed = [
          "no_such_row",
          "not_requeueable",
          "storage_full",
          "storage_failed",
          "unknown_peer",
          "peer_untrusted",
        ];
        if (process.alive && !allowed.includes(code))
          this.#watch(() => violated(`a requeue was refused with ${code}`));
      },
    );
  }

  // ── Faults ────────────────────────────────────────────────────────────────────────────────────────────────────────

  #nextFault(): void {
    const { chance } = this.world;
    this.world.schedule(200 + chance.next() * 4_000, () => {
      if (!this.#stormy) return;
      this.#faults++;
      this.#fault();
      this.#nextFault();
    });
  }

  #fault(): void {
    const { chance } = this.world;
    const daemon = chance.pick(this.#daemons);
    const forMs = chance.next() * 8_000;
    switch (chance.below(6)) {
      case 0:
        daemon.process.die();
        return;
      case 1:
        this.#broker.process.die();
        return;
      case 2:
        this.#network.partitioned.add(daemon.person.name);
        this.world.schedule(forMs * 8, () => this.#network.partitioned.delete(daemon.person.name));
        return;
      case 3: {
        const db = chance.pick(this.#databases());
        db.faults.full = true;
        this.world.schedule(forMs, () => {
          db.faults.full = false;
        });
        return;
      }
      case 4:
        // Within what a broker tolerates, and now and then far beyond it.
        daemon.skewMs = Math.floor((chance.next() - 0.5) * (chance.happens(0.3) ? 7_200_000 : 60_000));
        return;
      case 5: {
        const dave = this.#daemons.find((other) => other.person.name === "dave");
        const owner = this.#daemons[0];
        if (dave === undefined || owner === undefined || this.#removed.size > 0 || this.#broker.process.alive)
          return;
        this.#removed.add("dave");
        this.#broker.db.recover();
        this.#broker.remove(dave.person, owner.person);
      }
    }
  }

  /** Whatever ended is started again, after a while. */
  #reviveTheDead(): void {
    for (const actor of [this.#broker, ...this.#daemons]) {
      if (actor.process.alive || this.#reviving.has(actor)) continue;
      this.#reviving.add(actor);
      this.world.schedule(this.world.chance.next() * (this.#stormy ? 10_000 : 100), () => {
        this.#reviving.delete(actor);
        if (!actor.process.alive) actor.start();
      });
    }
  }
  readonly #reviving = new Set<SimBroker | SimDaemon>();

  #heal(): void {
    this.#stormy = false;
    this.#network.faults.cut = 0;
    this.#network.partitioned.clear();
    for (const db of this.#databases()) {
      db.faults.crash = 0;
      db.faults.full = false;
    }
    for (const daemon of this.#daemons) daemon.skewMs = 0;
    this.#reviveTheDead();
  }
}

const call = {
  param: "",
  headers: new Headers(),
  isTrusted: true,
  signal: new AbortController().signal,
  beginWaiting: () => undefined,
};

const priorityOf = (text: string): Priority => (text === "now" || text === "low" ? text : "next");

function violated(what: string): never {
  throw new Violation(what);
}
