/**
 * Where a message goes: the address as the caller wrote it, resolved against the members of the meshes that this host is
 * in. Refuses with the candidates; writes nothing.
 */
import type { DirectoryMember } from "~/daemon/directory";
import type { MeshSession } from "~/daemon/mesh-session";
import type { Meshes } from "~/daemon/meshes";
import { MeshError } from "~/errors";
import { memberFound } from "~/identity/members";
import { memberOf } from "~/wire/outgoing";

export interface Destination {
  session: MeshSession;
  member: DirectoryMember;
}

/** `meshText` is the mesh as the caller named it; without one, the only mesh that knows the address decides. */
export async function resolveDestination(
  to: string,
  meshText: string | undefined,
  meshes: Meshes,
): Promise<Destination> {
  const text = memberOf(to);
  if (meshText !== undefined) return resolveIn(meshes.byText(meshText), text, to);
  let { sessions } = meshes;
  if (sessions.length === 0) {
    meshes.reload();
    sessions = meshes.sessions;
  }
  const [only, second] = sessions;
  if (only === undefined) {
    throw new MeshError("no_mesh", "this host is in no mesh yet", {
      hint: "Create one (claudemesh mesh create NAME) or join one (claudemesh join LINK).",
    });
  }
  if (second === undefined) return resolveIn(only, text, to);
  await Promise.all(sessions.map((session) => session.directoryFetched()));
  const knowing = sessions.filter((session) => session.directory.resolve(text).kind !== "unknown");
  const [found] = knowing;
  if (found !== undefined && knowing.length === 1) return resolveIn(found, text, to);
  const slugs = (knowing.length > 1 ? knowing : sessions).map(({ mesh }) => mesh.slug);
  const what =
    knowing.length > 1
      ? `${to} is known in ${knowing.length} meshes`
      : `${to} is known in none of this host's meshes`;
  throw new MeshError("mesh_required", `${what}: ${slugs.join(", ")}`, {
    hint: "Say which mesh you mean with --mesh.",
    details: { meshes: slugs },
  });
}

async function resolveIn(session: MeshSession, text: string, to: string): Promise<Destination> {
  if (!(await session.directoryFetched())) {
    throw new MeshError(
      "directory_unavailable",
      `the members of ${session.mesh.slug} were never fetched, and its broker is out of reach`,
      {
        hint: "Once the broker was reached one time, sends are taken whether it is up or not. See: claudemesh daemon status",
      },
    );
  }
  let resolution = session.directory.resolve(text);
  if (resolution.kind === "unknown") {
    // Whoever joined a moment ago may not have been heard of yet.
    await session.refreshDirectory();
    resolution = session.directory.resolve(text);
  }
  const member = memberFound(resolution, to, session.mesh.slug);
  if (member.pubkey === session.mesh.pubkey) {
    throw new MeshError("self_destination", `${to} is this host itself`, {
      hint: "Send to another member: claudemesh peers --all",
    });
  }
  return { session, member };
}
