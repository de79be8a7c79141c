/**
 * Reads what Prometheus would, and is stricter: https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format.
 * Anything that is out of place, told twice or not told at all is an error that names the line.
 */

export interface ReadFamily {
  name: string;
  help: string;
  type: "counter" | "gauge" | "histogram";
  /** By the text of name and labels, such as `up{mesh="team"}`. */
  samples: Map<string, { name: string; labels: Record<string, string>; value: number }>;
}

export class Scrape {
  readonly families: ReadonlyMap<string, ReadFamily>;

  constructor(text: string) {
    this.families = readExposition(text);
  }

  family(name: string): ReadFamily {
    const family = this.families.get(name);
    if (family === undefined) throw new Error(`there is no metric ${name}`);
    return family;
  }

  /** The value of the series with exactly these labels; undefined when there is none. */
  value(name: string, labels: Record<string, string> = {}): number | undefined {
    const family = this.families.get(name) ?? this.family(name.replace(/_(bucket|sum|count)$/, ""));
    return family.samples.get(seriesOf(name, labels))?.value;
  }

  /** Every value that a label has anywhere. */
  labelValues(): Map<string, Set<string>> {
    const values = new Map<string, Set<string>>();
    for (const { samples } of this.families.values()) {
      for (const { labels } of samples.values()) {
        for (const [label, value] of Object.entries(labels))
          values.set(label, (values.get(label) ?? new Set()).add(value));
      }
    }
    return values;
  }
}

const seriesOf = (name: string, labels: Record<string, string>): string =>
  `${name}${JSON.stringify(Object.entries(labels).sort(([a], [b]) => (a < b ? -1 : 1)))}`;

export function readExposition(text: string): Map<string, ReadFamily> {
  if (!text.endsWith("\n")) throw new Error("the last line does not end");
  const families = new Map<string, ReadFamily>();
  let current: ReadFamily | undefined;
  let help: { name: string; text: string } | undefined;
  for (const [index, line] of text.slice(0, -1).split("\n").entries()) {
    const fault = (why: string) => new Error(`line ${index + 1}: ${why}: ${line}`);
    if (line === "") continue;
    const helped = /^# HELP ([a-z_:][a-z0-9_:]*) (.+)$/.exec(line);
    if (helped !== null) {
      help = { name: helped[1] ?? "", text: helped[2] ?? "" };
      if (families.has(help.name)) throw fault("told twice");
      continue;
    }
    const typed = /^# TYPE ([a-z_:][a-z0-9_:]*) (counter|gauge|histogram)$/.exec(line);
    if (typed !== null) {
      const [, name = "", type] = typed;
      if (help?.name !== name) throw fault("has no help of its own before it");
      if ((type === "counter") !== name.endsWith("_total"))
        throw fault("counters end with _total, others not");
      current = { name, help: help.text, type: type as ReadFamily["type"], samples: new Map() };
      families.set(name, current);
      continue;
    }
    const sample = readSample(line);
    if (sample === undefined) throw fault("is nothing that is known");
    const names = current?.type === "histogram" ? ["_bucket", "_sum", "_count"] : [""];
    if (current === undefined || !names.some((suffix) => current?.name + suffix === sample.name))
      throw fault("stands among those of another metric");
    const series = seriesOf(sample.name, sample.labels);
    if (current.samples.has(series)) throw fault("told twice");
    if (!Number.isFinite(sample.value)) throw fault("is no number");
    if (current.type !== "gauge" && sample.value < 0) throw fault("counts down");
    current.samples.set(series, sample);
  }
  for (const family of families.values()) if (family.type === "histogram") checkHistogram(family);
  return families;
}

function readSample(
  line: string,
): { name: string; labels: Record<string, string>; value: number } | undefined {
  const match = /^([a-z_:][a-z0-9_:]*)(?:\{(.*)\})? (\S+)$/s.exec(line);
  if (match === null) return undefined;
  const [, name = "", inner = "", value = ""] = match;
  const labels: Record<string, string> = {};
  const pair = /([a-z_][a-z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(,|$)/gy;
  for (let at = 0; at < inner.length; at = pair.lastIndex) {
    pair.lastIndex = at;
    const found = pair.exec(inner);
    if (found === null || Object.hasOwn(labels, found[1] ?? "")) return undefined;
    const plain = (found[2] ?? "").replace(/\\(["\\n])/g, (_, escaped) => (escaped === "n" ? "\n" : escaped));
    labels[found[1] ?? ""] = plain;
    if (found[3] === "," && pair.lastIndex === inner.length) return undefined;
  }
  if (!/^(-?[0-9.]+(e[+-]?[0-9]+)?|[+-]Inf|NaN)$/.test(value)) return undefined;
  return { name, labels, value: Number(value.replace("Inf", "Infinity")) };
}

/** Of each set of labels: buckets that grow to the count, and a sum. */
function checkHistogram({ name, samples }: ReadFamily): void {
  const groups = new Map<string, { bounds: [number, number][]; sum?: number; count?: number }>();
  for (const sample of samples.values()) {
    const { le, ...labels } = sample.labels;
    const key = seriesOf(name, labels);
    const group = groups.get(key) ?? { bounds: [] };
    groups.set(key, group);
    if (sample.name === `${name}_sum`) group.sum = sample.value;
    else if (sample.name === `${name}_count`) group.count = sample.value;
    else if (le === undefined) throw new Error(`${key}: a bucket has no bound`);
    else group.bounds.push([Number(le.replace("Inf", "Infinity")), sample.value]);
  }
  for (const [key, { bounds, sum, count }] of groups) {
    const last = bounds.at(-1);
    if (last?.[0] !== Number.POSITIVE_INFINITY || last[1] !== count || sum === undefined)
      throw new Error(`${key}: is no whole histogram`);
    for (const [index, [bound, value]] of bounds.entries()) {
      const [before, valueBefore] = bounds[index - 1] ?? [Number.NEGATIVE_INFINITY, 0];
      if (bound <= before || value < valueBefore) throw new Error(`${key}: its buckets do not grow`);
    }
  }
}

/** A metric as docs/monitoring.md lists it: `| \`name\` | type | labels | … |`. */
export interface ListedMetric {
  name: string;
  type: string;
  labels: string[];
}

/** The metrics that a section of the document lists. */
export function listedMetrics(markdown: string, heading: string): ListedMetric[] {
  const [, section] = markdown.split(`\n## ${heading}\n`);
  if (section === undefined) throw new Error(`the document has no section ${heading}`);
  const [own = ""] = section.split("\n## ");
  return [...own.matchAll(/^\| `([a-z0-9_]+)` \| (\w+) \|([^|]*)\|/gm)].map(
    ([, name = "", type = "", labels = ""]) => ({
      name,
      type,
      labels: [...labels.matchAll(/`(\w+)`/g)].map(([, label = ""]) => label),
    }),
  );
}
