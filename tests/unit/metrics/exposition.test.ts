/** The text that Prometheus reads: every number where it belongs, whatever the labels hold, however often somebody asks. */
import { describe, expect, test } from "bun:test";
import { Exposition, type Family, type Sample, samplesOf } from "~/metrics/exposition";
import { Durations, Tally } from "~/metrics/tally";
import { metricsContentType } from "~/wire/ipc";
import { readExposition, Scrape } from "../../support/prometheus";

interface World {
  samples: Sample[];
  durations: Durations;
}

const families: Family<World>[] = [
  {
    name: "things_total",
    type: "counter",
    help: "Things.",
    labels: ["mesh"],
    read: (world) => world.samples,
  },
  { name: "size_bytes", type: "gauge", help: "A size.", labels: [], read: () => [[-1.5]] },
  { name: "empty", type: "gauge", help: "Nothing\\n is \\ here.", labels: ["a"], read: () => [] },
  {
    name: "took_seconds",
    type: "histogram",
    help: "Times.",
    labels: ["route"],
    read: ({ durations }) => [[durations, { route: "send" }]],
  },
];

const world = (...samples: Sample[]): World => ({ samples, durations: new Durations([0.1, 1]) });

describe("the text", () => {
  test("has help and type for every metric, and the content type of the format", async () => {
    const response = await new Exposition(families).answer(world([1, { mesh: "team" }]));
    expect(response.headers.get("content-type")).toBe(metricsContentType);
    const { families: read } = new Scrape(await response.text());
    expect([...read.values()].map(({ name, type, samples }) => [name, type, samples.size])).toEqual([
      ["things_total", "counter", 1],
      ["size_bytes", "gauge", 1],
      ["empty", "gauge", 0],
      ["took_seconds", "histogram", 5],
    ]);
  });

  test.each(['"', "\\", "\n", '\\"\n"\\', "a,b:c", "x{y} 1", "é 💬", ""])(
    "keeps the label %j whole",
    async (mesh) => {
      const text = await (await new Exposition(families).answer(world([3, { mesh }]))).text();
      expect(new Scrape(text).value("things_total", { mesh })).toBe(3);
    },
  );

  test("is the same when asked again, and of its own world when two ask at once", async () => {
    const exposition = new Exposition(families);
    const ask = async (count: number) => (await exposition.answer(world([count, { mesh: "team" }]))).text();
    const [first, second] = await Promise.all([ask(1), ask(2)]);
    const values = [first, second, await ask(2)].map((text) =>
      new Scrape(text).value("things_total", { mesh: "team" }),
    );
    expect(values).toEqual([1, 2, 2]);
  });

  test("forgets series that are no more", async () => {
    const exposition = new Exposition(families);
    await exposition.answer(world([1, { mesh: "left" }]));
    const scrape = new Scrape(await (await exposition.answer(world([1, { mesh: "team" }]))).text());
    expect(scrape.family("things_total").samples.size).toBe(1);
  });

  test("refuses a label that was not declared", () => {
    const answer = new Exposition(families).answer(world([1, { peer: "bob" }]));
    return expect(answer).rejects.toThrow(/peer/);
  });
});

test("a histogram counts what is at most its bound, and all of it in the end", async () => {
  const { samples, durations } = world();
  for (const seconds of [0, 0.05, 0.1, 0.100001, 1, 7]) durations.observe(seconds);
  const scrape = new Scrape(await (await new Exposition(families).answer({ samples, durations })).text());
  const route = "send";
  const values = ["0.1", "1", "+Inf"].map((le) => scrape.value("took_seconds_bucket", { route, le }));
  expect(values).toEqual([3, 5, 6]);
  expect(scrape.value("took_seconds_count", { route })).toBe(6);
  expect(scrape.value("took_seconds_sum", { route })).toBeCloseTo(8.250001, 9);
});

test("a tally shows what it was made with, and what came later", () => {
  const tally = new Tally<string>(["a", "b"]);
  tally.add("b");
  tally.add("c", 5);
  expect([tally.get("b"), tally.get("nothing")]).toEqual([1, 0]);
  expect(samplesOf("kind", tally, { mesh: "team" })).toEqual([
    [0, { mesh: "team", kind: "a" }],
    [1, { mesh: "team", kind: "b" }],
    [5, { mesh: "team", kind: "c" }],
  ]);
});

describe("the reader that the tests use finds what is wrong", () => {
  const head = "# HELP a_total x\n# TYPE a_total counter\n";
  const faulty: [text: string, why: string][] = [
    ["a_total 1\n", "another metric"],
    ["# TYPE a_total counter\na_total 1\n", "no help"],
    [`${head}a_total 1`, "does not end"],
    [`${head}a_total 1\na_total 2\n`, "told twice"],
    [`${head}a_total{x="1",y="2"} 1\na_total{y="2",x="1"} 1\n`, "told twice"],
    [`${head}${head}a_total 1\n`, "told twice"],
    [`${head}b_total 1\n`, "another metric"],
    [`${head}a_total -1\n`, "counts down"],
    [`${head}a_total one\n`, "nothing that is known"],
    [`${head}a_total{x="1",} 1\n`, "nothing that is known"],
    [`${head}a_total{x="1",x="2"} 1\n`, "nothing that is known"],
    [`${head}a_total{x="\\t"} 1\n`, "nothing that is known"],
    [`${head}a_total{x=1} 1\n`, "nothing that is known"],
    [`${head}a_total NaN\n`, "no number"],
    ["# HELP a x\n# TYPE a counter\na 1\n", "_total"],
    ["# HELP a_total x\n# TYPE a_total gauge\na_total 1\n", "_total"],
    ['# HELP h x\n# TYPE h histogram\nh_bucket{le="1"} 1\nh_sum 1\nh_count 1\n', "no whole histogram"],
    [
      '# HELP h x\n# TYPE h histogram\nh_bucket{le="1"} 2\nh_bucket{le="+Inf"} 1\nh_sum 1\nh_count 1\n',
      "grow",
    ],
  ];
  test.each(faulty)("%j", (text, why) => {
    expect(() => readExposition(text)).toThrow(why);
  });
});
