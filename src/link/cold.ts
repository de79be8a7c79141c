/**
 * A send without a daemon: one connection, one message, one acknowledged answer. Nothing is kept on this host, so the
 * broker's word is all there is; the id makes a repeat safe there as anywhere.
 */
import { monotonicFactory } from "ulidx";
import { isoTime, systemClock } from "~/clock";
import { MeshError } from "~/errors";
import { type Config, chooseMesh, type MeshEntry } from "~/identity/config";
import { sealLetter } from "~/identity/envelope";
import { seedOf } from "~/identity/keys";
import {
  type Addressee,
  memberFound,
  peerTooOld,
  resolveMember,
  type Standing,
  speaksBody2,
  standingOf,
  trustOf,
} from "~/identity/members";
import { openSealer } from "~/identity/sealer";
import { readAnswer } from "~/link/answer";
import { fetchMembers } from "~/link/members";
import { type BrokerConnection, connectOnce } from "~/link/once";
import type { AckFrame } from "~/wire/broker";
import { canonicalMeta, envelopeVersion, requestFingerprint, wireFingerprint } from "~/wire/fingerprint";
import type { SendRequestInput } from "~/wire/ipc";
import { checkClientMessageId, checkMessageText, checkMeta, memberOf } from "~/wire/outgoing";
import { encodeSealed } from "~/wire/sealed";

export interface ColdSend {
  config: Config;
  request: SendRequestInput;
  /** Bound on the whole errand, in milliseconds. */
  timeoutMs: number;
}

export interface ColdReply {
  client_message_id: string;
  status: "accepted";
  duplicate: boolean;
  broker_message_id: string;
}

/** Throws what the daemon would refuse, `broker_unreachable`, `timed_out`, or the broker's refusal. */
export async function sendCold({ config, request, timeoutMs }: ColdSend): Promise<ColdReply> {
  checkMessageText(request.message);
  checkMeta(request.meta);
  if (request.client_message_id !== undefined) checkClientMessageId(request.client_message_id);
  const text = memberOf(request.to);
  if (request.reply_to_id !== undefined) {
    throw new MeshError(
      "daemon_unreachable",
      "an answer needs the inbox that holds the message, and so the daemon",
      {
        hint: "claudemesh daemon up",
      },
    );
  }
  const mesh = chooseMesh(config, request.mesh);
  const id = request.client_message_id ?? monotonicFactory()();
  let cut = (_error: MeshError): void => undefined;
  const failed = new Promise<never>((_, reject) => {
    cut = reject;
  });
  const timer = systemClock.after(timeoutMs, () =>
    cut(
      new MeshError(
        "timed_out",
        `the broker did not confirm the message within ${timeoutMs / 1000} s; it may have it`,
        {
          hint: `Repeat it with the same id, which cannot send it twice: --id ${id}`,
        },
      ),
    ),
  );
  try {
    const connection = await Promise.race([failed, connectOnce(mesh, { timeoutMs, onClosed: cut })]);
    try {
      const ack = await Promise.race([failed, deliver(connection, mesh, text, id, request)]);
      return replyOf(ack, id);
    } finally {
      connection.close();
    }
  } finally {
    timer.cancel();
  }
}

async function deliver(
  connection: BrokerConnection,
  mesh: MeshEntry,
  to: string,
  id: string,
  request: SendRequestInput,
): Promise<AckFrame> {
  const member = addresseeOf(to, await membersOf(connection, mesh), mesh);
  const meta = canonicalMeta(request.meta) === "" ? null : (request.meta ?? null);
  const bodyVersion = speaksBody2(member.capabilities, member.standing) ? 2 : 1;
  if (bodyVersion === 1 && meta !== null) throw peerTooOld(member.name);
  const priority = request.priority ?? "next";
  const letter = {
    id,
    meshId: mesh.meshId,
    from: mesh.pubkey,
    to: member.pubkey,
    body: request.message,
    meta,
    replyTo: null,
    agent: null,
    sentAt: isoTime(systemClock.now()),
    expectsReply: false,
  };
  const sealer = await openSealer();
  const sealed = sealLetter(letter, bodyVersion, mesh.secretKey, sealer, connection.terms.inlineBytes);
  const fingerprint = requestFingerprint({
    envelopeVersion,
    destinationKind: "dm",
    destinationRef: member.pubkey,
    replyToId: null,
    priority,
    meta,
    body: request.message,
  });
  return connection.deliver({
    type: "send",
    id,
    client_message_id: id,
    request_fingerprint: wireFingerprint(fingerprint, seedOf(mesh.secretKey)),
    targetSpec: member.pubkey,
    priority,
    ...encodeSealed(sealed),
    bodyVersion,
  });
}

interface ColdMember extends Addressee {
  capabilities: string[];
}

async function membersOf(connection: BrokerConnection, mesh: MeshEntry): Promise<ColdMember[]> {
  const trust = trustOf(mesh);
  if (connection.terms.members) {
    const members = await fetchMembers((frame) => connection.request(frame));
    return members.map((member) => ({
      pubkey: member.pubkey,
      name: member.display_name,
      capabilities: member.capabilities,
      standing: standingOf(member, trust),
    }));
  }
  const answer = await connection.request({ type: "list_peers" });
  if (answer.type !== "peers_list") throw notAnAnswer();
  return answer.peers.map((peer) => {
    const pubkey = peer.memberPubkey ?? peer.pubkey;
    const standing: Standing = standingOf({ pubkey }, trust);
    return { pubkey, name: peer.displayName, capabilities: [], standing };
  });
}

/** Without a daemon there is no record of which key a name had first: only the admission speaks for a member. */
function addresseeOf(to: string, members: ColdMember[], mesh: MeshEntry): ColdMember {
  const member = memberFound(resolveMember(to, members), to, mesh.slug);
  if (member.pubkey === mesh.pubkey) throw new MeshError("self_destination", `${to} is this host itself`);
  return member;
}

function replyOf(ack: AckFrame, id: string): ColdReply {
  const verdict = readAnswer(ack);
  switch (verdict.kind) {
    case "accepted":
      return {
        client_message_id: id,
        status: "accepted",
        duplicate: verdict.duplicate,
        broker_message_id: verdict.messageId,
      };
    case "reused":
      throw new MeshError("idempotency_key_reused", `the id ${id} was already used for another message`, {
        hint: "Use a new id for a new message.",
      });
    case "held":
    case "permanent":
    case "transient":
    case "unrecognised": {
      const why = verdict.kind === "held" ? "it holds this destination" : verdict.why;
      throw new MeshError("broker_refused", `the broker did not take the message: ${why}`, {
        details: { broker_code: ack.code ?? null },
      });
    }
  }
}

const notAnAnswer = (): MeshError =>
  new MeshError("bad_gateway", "the broker answered a question for members with something else");
