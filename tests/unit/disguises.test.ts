import { expect, test } from "bun:test";
import { disguises } from "../support/disguises";

test("disguises finds what it is for", () => {
  const secret = 'PLANTED-"secret"-öf-this-test';
  const found = disguises(secret);
  for (const hidden of [
    `x${secret}y`,
    JSON.stringify({ a: [secret] }),
    JSON.stringify(JSON.stringify({ a: secret })),
    Buffer.from(`?????${secret}>>>>`).toString("base64url"),
    encodeURIComponent(secret),
    Buffer.from(`{"v":2,"body":"${secret}"}`).toString("base64"),
    Buffer.from(`  ${secret}..`).toString("base64"),
    Buffer.from(secret).toString("hex"),
  ])
    expect(hidden).toMatch(found);
  expect(Buffer.from("something else entirely, and longer").toString("base64")).not.toMatch(found);
});
