/**
 * A direct message as it is sealed and opened. Body version 2 repeats inside the seal what the frame says outside (id,
 * mesh, sender, recipient), and opening refuses a difference: a broker cannot replay, redirect or rename a message.
 * Version 1 is the bare text, for peers that know no better.
 */
import * as v from "valibot";
import { MeshError } from "~/errors";
import { verifyText } from "~/identity/keys";
import { type Sealer, sealOverheadBytes } from "~/identity/sealer";
import { type Attestation, type PushFrame, SealedBody } from "~/wire/broker";
import { attestationMsMax } from "~/wire/limits";
import { decodeSealed, type Sealed } from "~/wire/sealed";
import { sessionAttestationText } from "~/wire/signed";

export interface ReplyReference {
  /** `client_message_id` of the message that is answered. */
  id: string;
  /** Member key of whoever sent that message. */
  sender: string;
}

export interface Letter {
  id: string;
  meshId: string;
  from: string;
  to: string;
  body: string;
  meta: Record<string, unknown> | null;
  replyTo: ReplyReference | null;
  agent: string | null;
  sentAt: string;
  expectsReply: boolean;
}

export type BodyVersion = 1 | 2;

/** The text that gets sealed. */
export function letterContent(letter: Letter, bodyVersion: BodyVersion): string {
  if (bodyVersion === 1) return letter.body;
  const content: SealedBody = {
    v: 2,
    id: letter.id,
    mesh: letter.meshId,
    from: letter.from,
    to: letter.to,
    body: letter.body,
    ...(letter.meta === null ? {} : { meta: letter.meta }),
    ...(letter.replyTo === null ? {} : { reply_to: letter.replyTo }),
    ...(letter.agent === null ? {} : { agent: letter.agent }),
    sent_at: letter.sentAt,
    ...(letter.expectsReply ? { expects_reply: true } : {}),
  };
  return JSON.stringify(content);
}

/**
 * Seals a letter for its recipient. Throws `message_too_large` when the sealed content would exceed what the broker takes
 * (`inlineBytes`), so that nothing accepted can be too large later.
 */
export function sealLetter(
  letter: Letter,
  bodyVersion: BodyVersion,
  senderSecretKey: string,
  sealer: Sealer,
  inlineBytes: number,
): Sealed {
  const content = letterContent(letter, bodyVersion);
  const size = Buffer.byteLength(content) + sealOverheadBytes;
  if (size > inlineBytes) {
    throw new MeshError(
      "message_too_large",
      `the message has ${size} bytes when sealed; the broker takes ${inlineBytes}`,
      {
        hint: "Send a shorter message, or put the content somewhere and send its address.",
        details: { size_bytes: size, limit_bytes: inlineBytes },
      },
    );
  }
  return sealer.seal(content, senderSecretKey, letter.to);
}

export type OpenedLetter =
  | { ok: true; letter: Letter; bodyVersion: BodyVersion }
  | { ok: false; reason: ProblemReason };

/** Why a push is kept as a problem instead of being shown as a message. */
export const problemReasons = [
  "does_not_open",
  "session_not_attested",
  "sender_not_admitted",
  "content_malformed",
  "content_contradicts_frame",
  "unknown_body_version",
  "frame_malformed",
  "unsupported_kind",
] as const;
export type ProblemReason = (typeof problemReasons)[number];

export interface Recipient {
  meshId: string;
  publicKey: string;
  secretKey: string;
}

/** `nowMs` is compared with the expiry of a session's attestation, by when the broker says the message was made. */
export function openLetter(
  push: PushFrame,
  recipient: Recipient,
  sealer: Sealer,
  nowMs: number,
): OpenedLetter {
  const problem = (reason: ProblemReason): OpenedLetter => ({ ok: false, reason });
  if (push.topic !== undefined) return problem("unsupported_kind");
  if (push.meshId !== recipient.meshId) return problem("content_contradicts_frame");
  const member = push.senderMemberPubkey ?? push.senderPubkey;
  if (member !== push.senderPubkey && !isAttested(push.senderAttestation, member, push.senderPubkey, nowMs)) {
    return problem("session_not_attested");
  }
  const content = sealer.open(decodeSealed(push), recipient.secretKey, push.senderPubkey);
  if (content === undefined) return problem("does_not_open");

  const body2 = parseBody2(content);
  const bodyVersion = push.bodyVersion ?? 1;
  if (bodyVersion === 1) {
    // A version-2 content in a version-1 frame was relabelled on its way, to get round the checks below.
    if (body2 !== undefined) return problem("content_contradicts_frame");
    return { ok: true, letter: bareLetter(push, member, recipient, content), bodyVersion: 1 };
  }
  if (bodyVersion !== 2) return problem("unknown_body_version");
  if (body2 === undefined) return problem("content_malformed");
  const agrees =
    body2.mesh === recipient.meshId &&
    body2.from === member &&
    body2.to === recipient.publicKey &&
    (push.client_message_id === undefined || push.client_message_id === body2.id);
  if (!agrees) return problem("content_contradicts_frame");
  return { ok: true, letter: letterFromBody2(body2), bodyVersion: 2 };
}

function parseBody2(content: string): SealedBody | undefined {
  if (!/^\s*\{/.test(content)) return undefined;
  let value: unknown;
  try {
    value = JSON.parse(content);
  } catch {
    return undefined;
  }
  const parsed = v.safeParse(SealedBody, value);
  return parsed.success ? parsed.output : undefined;
}

const letterFromBody2 = (content: SealedBody): Letter => ({
  id: content.id,
  meshId: content.mesh,
  from: content.from,
  to: content.to,
  body: content.body,
  meta: content.meta ?? null,
  replyTo: content.reply_to ?? null,
  agent: content.agent ?? null,
  sentAt: content.sent_at,
  expectsReply: content.expects_reply ?? false,
});

/** A version-1 message has no sealed id: without the sender's own, the broker's names it. */
const bareLetter = (push: PushFrame, member: string, recipient: Recipient, body: string): Letter => ({
  id: push.client_message_id ?? push.messageId,
  meshId: push.meshId,
  from: member,
  to: recipient.publicKey,
  body,
  meta: null,
  replyTo: null,
  agent: null,
  sentAt: push.createdAt ?? "",
  expectsReply: false,
});

function isAttested(
  attestation: Attestation | undefined,
  member: string,
  session: string,
  nowMs: number,
): boolean {
  if (attestation === undefined) return false;
  const { parentMemberPubkey, sessionPubkey, expiresAt, signature } = attestation;
  if (parentMemberPubkey !== member || sessionPubkey !== session) return false;
  if (expiresAt > nowMs + attestationMsMax) return false;
  return verifyText(sessionAttestationText(member, session, expiresAt), signature, member);
}
