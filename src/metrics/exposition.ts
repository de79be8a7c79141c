/**
 * A server's metrics as Prometheus reads them (https://prometheus.io/docs/instrumenting/exposition_formats/). They are declared as
 * a list of families, each of which knows where its numbers are; all are read at once when somebody asks, and none before then.
 * Loaded with the first question: see client.d.ts for what that brings along.
 */
import Counter from "@prometheus-io/client/lib/counter";
import Gauge from "@prometheus-io/client/lib/gauge";
import Registry from "@prometheus-io/client/lib/registry";
import type { Durations } from "~/metrics/tally";

/** Label values come from fixed sets and from the names of meshes, so that the number of series stays small: never names, keys or ids. */
export type Labels = Readonly<Record<string, string>>;
export type Sample = readonly [value: number, labels?: Labels];

/** `World` is what the numbers are read from. */
export type Family<World> = {
  /** With the unit at its end, and `_total` for what only grows (https://prometheus.io/docs/practices/naming/). */
  name: string;
  help: string;
  labels: readonly string[];
} & (
  | { type: "counter" | "gauge"; read: (world: World) => Iterable<Sample> }
  | { type: "histogram"; read: (world: World) => Iterable<readonly [durations: Durations, labels: Labels]> }
);

export class Exposition<World> {
  readonly #registry = new Registry(Registry.PROMETHEUS_CONTENT_TYPE);
  #world: World | undefined;

  constructor(families: readonly Family<World>[]) {
    for (const family of families) this.#register(family);
  }

  async answer(world: World): Promise<Response> {
    // Every family is read before this returns: two questions at a time do not get into each other's way.
    this.#world = world;
    const text = this.#registry.metrics();
    this.#world = undefined;
    return new Response(await text, { headers: { "content-type": this.#registry.contentType } });
  }

  #register(family: Family<World>): void {
    const { name, help } = family;
    if (family.type === "histogram") {
      const metric = { name, help, type: family.type, get: async () => this.#histogram(family) };
      // The client's own histogram takes one observation after the other, and these are counted already: the registry
      // asks a metric for no more than this.
      this.#registry.registerMetric(metric as unknown as InstanceType<typeof Counter>);
      return;
    }
    const Metric = family.type === "counter" ? Counter : Gauge;
    const metric = new Metric({
      name,
      help,
      labelNames: family.labels,
      registers: [this.#registry],
      collect: () => {
        metric.reset();
        for (const [value, labels = {}] of family.read(this.#read())) metric.inc(labels, value);
      },
    });
  }

  #histogram(family: Extract<Family<World>, { type: "histogram" }>) {
    const values: { metricName: string; labels: Labels; value: number }[] = [];
    const add = (suffix: string, labels: Labels, value: number) =>
      values.push({ metricName: family.name + suffix, labels, value });
    for (const [{ boundsSeconds, counts, sumSeconds }, labels] of family.read(this.#read())) {
      let count = 0;
      for (const [bucket, inBucket] of counts.entries()) {
        count += inBucket;
        add("_bucket", { ...labels, le: String(boundsSeconds[bucket] ?? "+Inf") }, count);
      }
      add("_sum", labels, sumSeconds);
      add("_count", labels, count);
    }
    return { name: family.name, help: family.help, type: family.type, values };
  }

  #read(): World {
    if (this.#world === undefined) throw new Error("a metric is read while nobody asks");
    return this.#world;
  }
}

/** What a tally holds, under one label. */
export const samplesOf = <Key extends string>(
  label: string,
  tally: { entries(): [Key, number][] },
  labels: Labels = {},
): Sample[] => tally.entries().map(([key, count]) => [count, { ...labels, [label]: key }]);
