/** What the settings ask of a broker, on a real connection: asked at each greeting, and again when they change. */
import { beforeEach, describe, expect, test } from "bun:test";
import { Link } from "~/link/link";
import { type Demands, noDemands } from "~/link/negotiate";
import { connectWebSocket } from "~/link/socket";
import { cleanup } from "../../support/cleanup";
import { FakeClock } from "../../support/fake-clock";
import { waitFor } from "../../support/wait-for";
import {
  claudemeshFeatures,
  greeting,
  membership,
  type ScriptedBroker,
  startBroker,
} from "./scripted-broker";

let broker: ScriptedBroker;
let demands: Demands;
let link: Link;

const forgetful = {
  ...claudemeshFeatures,
  client_message_id_dedupe: {
    version: 1,
    mode: "retention_scoped",
    dedupe_retention_days: 30,
    request_fingerprint: true,
  },
};

beforeEach(() => {
  broker = startBroker(greeting(forgetful));
  demands = noDemands;
  link = new Link({
    mesh: membership(broker.url),
    sessionId: "session-1",
    connect: connectWebSocket,
    clock: new FakeClock(),
    chance: () => 0.5,
    demands: () => demands,
    owner: {
      opened: () => undefined,
      closed: () => undefined,
      received: () => undefined,
      statusChanged: () => undefined,
    },
  });
  cleanup(() => link.stop());
});

const until = (name: string) => waitFor(() => link.status.name === name, { what: `the link to be ${name}` });

describe("a broker that does not meet them", () => {
  const unmet: [what: string, asked: Partial<Demands>, kind: string, feature: string, why: string][] = [
    [
      "by a feature",
      { requiredFeatures: ["receipts"] },
      "feature_unavailable",
      "receipts",
      "link.required_features",
    ],
    [
      "by its memory",
      { maxAgeHours: 649 },
      "feature_param_below_floor",
      "client_message_id_dedupe",
      "long enough for 648",
    ],
  ];

  test.each(unmet)(
    "%s is refused with a reason that both sides understand",
    async (_, asked, kind, feature, why) => {
      demands = { ...noDemands, ...asked };
      link.start();
      await until("refused");
      expect(link.status.why).toStartWith(`${kind}: ${feature}; `);
      expect(link.status.why).toContain(why);
      const [connection] = broker.connections;
      await waitFor(() => connection?.closed, { what: "the connection to be closed" });
      expect(connection?.closed).toEqual({ code: 4010, reason: JSON.stringify({ kind, feature }) });
    },
  );

  test.each(unmet)("%s is let go when they change, and taken when they change back", async (_, asked) => {
    link.start();
    await until("open");
    demands = { ...noDemands, ...asked };
    link.demandsChanged();
    await until("refused");
    demands = noDemands;
    link.demandsChanged();
    await until("open");
    expect(broker.connections).toHaveLength(3);
  });
});

test("a broker that meets them keeps its connection", async () => {
  link.start();
  await until("open");
  const { sinceMs } = link.status;
  demands = { requiredFeatures: ["members", "lanes"], maxAgeHours: 648 };
  link.demandsChanged();
  expect(link.isOpen).toBe(true);
  expect(link.status.sinceMs).toBe(sinceMs);
  expect(broker.connections).toHaveLength(1);
});
