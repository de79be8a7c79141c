/** Leaving a mesh, as far as its broker is concerned; what this host keeps of it is the caller's business. */
import { MeshError } from "~/errors";
import type { MeshEntry } from "~/identity/config";
import { expectFrame } from "~/link/failure";
import { connectOnce, type OnceOptions } from "~/link/once";

/**
 * Has the broker forget this member. Done already counts as done: the broker removed us before, or knows no such mesh.
 * Throws `broker_unreachable`, `timed_out`, or the broker's refusal.
 */
export async function leaveMesh(mesh: MeshEntry, options: OnceOptions = {}): Promise<void> {
  try {
    const connection = await connectOnce(mesh, options);
    try {
      const answer = await connection.request({ type: "remove_member", pubkey: mesh.pubkey });
      expectFrame(answer, "member_removed");
    } finally {
      connection.close();
    }
  } catch (error) {
    const code = error instanceof MeshError ? (error.details.broker_code ?? error.code) : undefined;
    if (code !== "not_a_member" && code !== "removed" && code !== "unknown_mesh") throw error;
  }
}
