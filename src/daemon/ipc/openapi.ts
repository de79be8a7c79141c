/** OpenAPI 3.1 (https://spec.openapis.org/oas/v3.1.0) made from the route table, which stays the only contract. */
import { toJsonSchema } from "@valibot/to-json-schema";
import type * as v from "valibot";
import { routes } from "~/wire/ipc";
import { ErrorReply } from "~/wire/reply";
import { JsonObject } from "~/wire/text";

type Json = Record<string, unknown>;

export function openApiDocument(version: string): Json & { openapi: string } {
  const paths: Record<string, Json> = {};
  for (const [name, route] of Object.entries(routes)) {
    const path = route.path.replace(/:(\w+)/g, "{$1}");
    paths[path] = { ...paths[path], [route.method.toLowerCase()]: operation(name, route) };
  }
  return {
    openapi: "3.1.0",
    info: { title: "claudemesh daemon", version, description: "The local API of the claudemesh daemon." },
    servers: [{ url: "http://localhost" }],
    security: [{ localToken: [] }, {}],
    components: { securitySchemes: { localToken: { type: "http", scheme: "bearer" } } },
    paths,
  };
}

type AnyRoute = (typeof routes)[keyof typeof routes];

function operation(name: string, route: AnyRoute): Json {
  const contentType = "contentType" in route ? route.contentType : "application/json";
  const responses = Object.entries(route.responses).map(([status, schema]) => [
    status,
    {
      description: status === "409" ? "Conflict" : "Done",
      content: { [contentType]: { schema: jsonSchema(schema, "output") } },
    },
  ]);
  return {
    operationId: name,
    summary: route.summary,
    parameters: [
      ...pathParameters(route.path),
      ...("query" in route ? queryParameters(route.query) : []),
      ...headerParameters(name),
    ],
    ...("body" in route
      ? {
          requestBody: {
            required: true,
            content: { "application/json": { schema: jsonSchema(route.body, "input") } },
          },
        }
      : {}),
    responses: {
      ...Object.fromEntries(responses),
      default: {
        description: "Refused or failed",
        content: { "application/json": { schema: jsonSchema(ErrorReply, "output") } },
      },
    },
  };
}

const pathParameters = (path: string): Json[] =>
  [...path.matchAll(/:(\w+)/g)].map(([, name]) => ({
    name,
    in: "path",
    required: true,
    schema: { type: "string" },
  }));

function queryParameters(query: v.GenericSchema): Json[] {
  const schema = jsonSchema(query, "input");
  const properties = schema.properties ?? {};
  return Object.entries(properties).map(([name, property]) => ({
    name,
    in: "query",
    required: schema.required?.includes(name) ?? false,
    schema: property,
  }));
}

function headerParameters(name: string): Json[] {
  const header = { send: "Idempotency-Key", events: "Last-Event-ID" }[name];
  return header === undefined
    ? []
    : [{ name: header, in: "header", required: false, schema: { type: "string" } }];
}

/** Checks that JSON Schema cannot say (a transformed number, a custom rule) are left out of the document, not of the API. */
const jsonSchema = (schema: v.GenericSchema, typeMode: "input" | "output") =>
  toJsonSchema(schema, {
    typeMode,
    errorMode: "ignore",
    target: "draft-2020-12",
    overrideSchema: ({ valibotSchema }) => (valibotSchema === JsonObject ? { type: "object" } : undefined),
  });
