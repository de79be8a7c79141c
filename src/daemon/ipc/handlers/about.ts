/** `GET /v1/version`, `/v1/health`, `/v1/challenge`, `/v1/openapi.json`, and the profile: the daemon about itself. */
import { isoTime } from "~/clock";
import { outboxSchemaVersion } from "~/daemon/db/outbox";
import { healthOf } from "~/daemon/health";
import type { Answer, Call } from "~/daemon/ipc/server";
import type { DaemonParts } from "~/daemon/parts";
import { version } from "~/version";
import { challengeProof } from "~/wire/challenge";
import { ipcFeatures } from "~/wire/ipc";

export const getVersion = (parts: DaemonParts) => (): Answer<"version"> => ({
  json: {
    daemon_version: version,
    ipc_api: "v1",
    ipc_features: [...ipcFeatures],
    schema_version: outboxSchemaVersion,
    meshes: Object.fromEntries(
      parts.meshes.sessions.map((session) => [
        parts.meshes.slugOf(session.mesh.meshId),
        { broker_features: session.terms?.features ?? null },
      ]),
    ),
  },
});

export const getHealth =
  (parts: DaemonParts) =>
  ({ isTrusted }: Call<"health">): Answer<"health"> => ({ json: isTrusted ? healthOf(parts) : { ok: true } });

export const getChallenge =
  (parts: DaemonParts) =>
  ({ query }: Call<"challenge">): Answer<"challenge"> => ({
    json: { proof: challengeProof(parts.token.current, query.nonce) },
  });

/** The document and what makes it are loaded when somebody asks. */
export const getOpenApi = () => async (): Promise<Answer<"openapi">> => {
  const { openApiDocument } = await import("~/daemon/ipc/openapi");
  return { json: openApiDocument(version) };
};

/** Who may have the new token reads it from its file: it is not answered. */
export const postTokenRotate = (parts: DaemonParts) => (): Answer<"rotateToken"> => {
  const { renewedAtMs, graceUntilMs } = parts.token.renew();
  return { json: { rotated_at: isoTime(renewedAtMs), grace_until: isoTime(graceUntilMs) } };
};

export const getProfile = (parts: DaemonParts) => (): Answer<"profile"> => ({ json: parts.profile.current });

export const postProfile =
  (parts: DaemonParts) =>
  ({ body }: Call<"setProfile">): Answer<"setProfile"> => {
    parts.profile.change(body);
    for (const session of parts.meshes.sessions) session.announceProfile();
    return { json: parts.profile.current };
  };
