/** The broker's HTTP routes, for hosts that are not members yet: create a mesh, join one. */
import * as v from "valibot";
import { MeshError } from "~/errors";
import { brokerError, unreachable } from "~/link/failure";
import { shownUrl } from "~/wire/fault";
import { httpBodyBytesMax } from "~/wire/limits";
import {
  CreateMeshReply,
  type CreateMeshRequest,
  HttpError,
  httpUrlOf,
  JoinReply,
  type JoinRequestV1,
  type JoinRequestV3,
} from "~/wire/membership";
import { explainIssues } from "~/wire/text";

const timeoutMs = 15_000;

export const createMesh = (
  brokerUrl: string,
  adminToken: string,
  body: v.InferInput<typeof CreateMeshRequest>,
): Promise<v.InferOutput<typeof CreateMeshReply>> =>
  post(httpUrlOf(brokerUrl, "/meshes"), body, CreateMeshReply, { authorization: `Bearer ${adminToken}` });

export const joinMesh = (
  brokerUrl: string,
  body: v.InferInput<typeof JoinRequestV3> | v.InferInput<typeof JoinRequestV1>,
): Promise<v.InferOutput<typeof JoinReply>> => post(httpUrlOf(brokerUrl, "/join"), body, JoinReply, {});

/** Throws `broker_unreachable`, what the broker answered, or `bad_gateway` when the answer is not one of a broker. */
async function post<S extends v.GenericSchema>(
  url: string,
  body: unknown,
  schema: S,
  headers: Record<string, string>,
): Promise<v.InferOutput<S>> {
  const response = await fetch(url, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify(body),
    redirect: "error",
    signal: AbortSignal.timeout(timeoutMs),
  }).catch((error: unknown) => {
    throw unreachable(url, error);
  });
  const text = await boundedText(response).catch((error: unknown) => {
    throw unreachable(url, error);
  });
  const answer = parseJson(text);
  if (!response.ok) {
    const refusal = v.safeParse(HttpError, answer);
    if (refusal.success)
      throw brokerError(
        refusal.output.error,
        refusal.output.message ?? refusal.output.error,
        refusal.output.hint,
      );
    throw notABroker(url, `HTTP ${response.status}`);
  }
  const parsed = v.safeParse(schema, answer);
  if (!parsed.success) throw notABroker(url, explainIssues(parsed.issues));
  return parsed.output;
}

/** As much of an answer as a broker's has: whoever it is that answers may never come to an end. */
export async function boundedText({ body }: Response): Promise<string> {
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of body ?? []) {
    text += decoder.decode(chunk, { stream: true });
    if (text.length > httpBodyBytesMax) break;
  }
  return text.slice(0, httpBodyBytesMax);
}

const notABroker = (url: string, what: string): MeshError =>
  new MeshError("bad_gateway", `${shownUrl(url)} does not answer like a claudemesh broker (${what})`, {
    hint: "Check the broker URL: it is the WebSocket address, like ws://host:7900/ws.",
  });

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
