/**
 * Whether a hello is believed: the member is one, its clock is near ours, it signed this very greeting, and nobody used the
 * signature before. Signatures are remembered in the database, so that a restart of the broker opens no gap for a replay.
 */
import type { Bounds } from "~/broker/bounds";
import type { Identity } from "~/broker/connections";
import type { Instant } from "~/broker/instant";
import type { Store } from "~/broker/sqlite";
import { isoTime } from "~/clock";
import { verifyText } from "~/identity/keys";
import { closeCode, type Hello } from "~/wire/broker";
import { helloSkewMsMax } from "~/wire/limits";
import { helloText } from "~/wire/signed";

export interface HelloRefusal {
  code: string;
  message: string;
  closeCode: number;
}

export type HelloVerdict = { admitted: Identity } | { refused: HelloRefusal };

const protocolVersion = 1;

/** ECMA-262 §21.4.1.1: no later moment has a date. */
const dateMsMax = 8.64e15;

/** Judges a hello, and remembers one that is believed. Writes; call inside a transaction. */
export function judgeHello(hello: Hello, store: Store, bounds: Bounds, at: Instant): HelloVerdict {
  if (hello.protocolVersion !== undefined && hello.protocolVersion !== protocolVersion) {
    return refuse(
      "unsupported_protocol",
      `this broker speaks protocol version ${protocolVersion}, not ${hello.protocolVersion}`,
    );
  }
  const mesh = store.meshById(hello.meshId);
  if (mesh === undefined) return refuse("unknown_mesh", "this broker has no mesh with this id");
  const member = store.memberById(mesh.mesh, hello.memberId);
  if (member === undefined || member.pubkey !== hello.pubkey)
    return refuse("not_a_member", "this mesh has no member with this id and key");
  if (member.removed_at !== null)
    return refuse("removed", "this member was removed from the mesh", closeCode.removed);
  if (Math.abs(at.wallMs - hello.timestamp) > helloSkewMsMax)
    return refuse("clock_skew", skewText(hello.timestamp, at.wallMs));
  if (!verifyText(helloText(hello), hello.signature, member.pubkey))
    return refuse("bad_signature", "the signature of the hello does not verify");

  store.forgetHellosBefore(at.wallMs - 2 * helloSkewMsMax);
  if (store.remembersHellos(member.member, bounds.hellosRememberedPerMemberMax))
    return refuse("too_many_connections", "this member connected too often in the last two minutes");
  if (!store.rememberHello(hello.signature, member.member, hello.timestamp))
    return refuse("replayed", "this hello was used before: sign a new one with the current time");

  store.noteSeen(member.member, at.wallMs);
  return {
    admitted: {
      member: member.member,
      memberId: member.member_id,
      pubkey: member.pubkey,
      displayName: member.display_name,
      mesh: mesh.mesh,
      meshId: mesh.mesh_id,
    },
  };
}

/** Both times, and how far apart they are, so that the person who reads it sees whose clock is wrong. */
export function skewText(theirMs: number, ourMs: number): string {
  const seconds = Math.round(Math.abs(theirMs - ourMs) / 1000);
  const theirs = theirMs <= dateMsMax ? isoTime(theirMs) : `${theirMs} ms`;
  const direction = theirMs > ourMs ? "ahead of" : "behind";
  return (
    `your clock says ${theirs} and the broker's ${isoTime(ourMs)}: it is ${seconds} s ${direction} the broker's; ` +
    `at most ${helloSkewMsMax / 1000} s are allowed`
  );
}

const refuse = (code: string, message: string, close: number = closeCode.refused): HelloVerdict => ({
  refused: { code, message, closeCode: close },
});
