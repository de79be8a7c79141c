/** What `daemon up` says when it was started in a container or by a CI service: which default that changed, and the way back. */
import type { Resolved } from "~/settings/resolve";
import type { Surroundings } from "~/settings/surroundings";

/** One line; undefined when there is nothing to say. */
export function surroundingsNote(
  { sources }: Resolved,
  { ci }: Surroundings,
  isEphemeral: boolean,
): string | undefined {
  const source = sources["daemon.tcp"];
  const parts = [
    ...(source.from === "surroundings"
      ? [
          `TCP is off by default ${source.why.kind === "CI" ? "under CI" : "in a container"} (${source.why.evidence}); for TCP: --tcp-port N, or claudemesh config set daemon.tcp true`,
        ]
      : []),
    ...(ci === undefined || isEphemeral
      ? []
      : [`this is a CI job (${ci}): --ephemeral leaves nothing of the daemon behind`]),
  ];
  return parts.length === 0 ? undefined : `note: ${parts.join("; ")}`;
}
