/** A shim is told to look after its heap less often than Bun would, and its agent is not. */
import { expect, test } from "bun:test";
import { join } from "node:path";
import { spawnShim } from "~/agent/client";
import { withoutRareHeapChecks, withRareHeapChecks } from "~/agent/heap-checks";
import { systemClock } from "~/clock";
import { cleanup } from "../../support/cleanup";
import { tempDir } from "../../support/temp-dir";

const name = "BUN_GC_TIMER_INTERVAL";

test("what a shim is told does not reach its agent, what somebody else said does", () => {
  const env = { PATH: "/bin", UNSET: undefined };
  const ofShim = withRareHeapChecks(env);
  expect(ofShim).toEqual({ ...env, [name]: "30000" });
  expect(withoutRareHeapChecks(ofShim)).toEqual(env);
  const own = { ...env, [name]: "1000" };
  expect(withRareHeapChecks(own)).toEqual(own);
  expect(withoutRareHeapChecks(own)).toEqual(own);
});

test("a shim that an orchestrator starts is told", async () => {
  const file = join(tempDir(), "shim.ts");
  await Bun.write(
    file,
    `const text = JSON.stringify({ event: "Error", command: "", reason: process.env.${name} ?? "nothing" });
    const head = Buffer.alloc(4);
    head.writeUInt32BE(text.length);
    const socket = await Bun.connect({ fd: 3, socket: { data() {}, close: () => process.exit() } });
    socket.write(Buffer.concat([head, Buffer.from(text)]));`,
  );
  const said = Promise.withResolvers<string>();
  const shim = await spawnShim({
    executable: [process.execPath, file],
    args: [],
    env: { PATH: process.env.PATH },
    cwd: tempDir(),
    clock: systemClock,
    event: (event) => event.event === "Error" && said.resolve(event.reason),
    warning: said.reject,
    dead: ({ why }) => said.reject(new Error(why)),
  });
  cleanup(async () => {
    shim.close();
    await shim.exited;
  });
  expect(await said.promise).toBe("30000");
});
