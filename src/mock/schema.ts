/** The schema of scripts (wire/mock-script.ts) as JSON Schema, draft 2020-12. */
import { toJsonSchema } from "@valibot/to-json-schema";
import { MockScript } from "~/wire/mock-script";
import { JsonObject } from "~/wire/text";

export const scriptSchema = (): object => ({
  ...toJsonSchema(MockScript, {
    typeMode: "input",
    target: "draft-2020-12",
    // What JSON Schema cannot say (that only one effect may stand in a rule) is checked when a script is read.
    errorMode: "ignore",
    overrideSchema: ({ valibotSchema }) => (valibotSchema === JsonObject ? { type: "object" } : undefined),
  }),
  title: "A script for claudemesh mock",
});
