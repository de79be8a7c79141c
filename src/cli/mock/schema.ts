import { defineCommand } from "~/cli/command";

export const mockSchema = defineCommand({
  name: "mock schema",
  description: "what a script for a mock may hold, as JSON Schema",
  args: {},
  notes: 'An editor that knows JSON Schema checks a script that names it: "$schema": "./mock.schema.json".',
  exits: [],
  examples: ["claudemesh mock schema > mock.schema.json"],
  async run(_, { out }) {
    const { scriptSchema } = await import("~/mock/schema");
    const schema = scriptSchema();
    await out.answer(schema, () => JSON.stringify(schema, null, 2));
  },
});
