/** Our greeting: who we are, signed over the mesh, the member and the time (wire.md "Hello" gives the text). */
import { hostname } from "node:os";
import type { MeshEntry } from "~/identity/config";
import { signText } from "~/identity/keys";
import { type ClientFrameInput, capability } from "~/wire/broker";
import { helloText } from "~/wire/signed";

export function helloFrame(
  mesh: MeshEntry,
  sessionId: string,
  nowMs: number,
  sendOnly: boolean,
): ClientFrameInput {
  const signed = { meshId: mesh.meshId, memberId: mesh.memberId, pubkey: mesh.pubkey, timestamp: nowMs };
  return {
    type: "hello",
    protocolVersion: 1,
    capabilities: sendOnly ? [capability.body2, capability.sendOnly] : [capability.body2],
    ...signed,
    sessionId,
    pid: process.pid,
    cwd: process.cwd(),
    hostname: hostname(),
    peerType: "connector",
    channel: "claudemesh-daemon",
    signature: signText(helloText(signed), mesh.secretKey),
  };
}
