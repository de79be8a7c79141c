/** The schema of scripts (wire/mock-script.ts) as JSON Schema, draft 2020-12. */
import { toJsonSchema } from "@valibot/to-json-schema";
import { MockScript, statedInJsonSchema } from "~/wire/mock-script";
import { JsonObject } from "~/wire/text";

export const scriptSchema = (): object => ({
  ...toJsonSchema(MockScript, {
    typeMode: "input",
    target: "draft-2020-12",
    // What JSON Schema cannot say (which fields the command has that a rule names) is checked when a script is read.
    errorMode: "ignore",
    overrideSchema: ({ valibotSchema }) => (valibotSchema === JsonObject ? { type: "object" } : undefined),
    overrideAction({ valibotAction, jsonSchema }) {
      const stated = statedInJsonSchema.get(valibotAction);
      return stated === undefined
        ? undefined
        : { ...jsonSchema, allOf: [...(jsonSchema.allOf ?? []), stated] };
    },
  }),
  title: "A script for claudemesh mock",
});
