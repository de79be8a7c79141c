/**
 * One joined mesh in the running daemon: its link, its members, what arrives by it and how to seal for it. Started and
 * stopped by meshes.ts as config.json changes.
 */
import type { Clock, Timer } from "~/clock";
import { isoTime } from "~/clock";
import type { DirectoryStore } from "~/daemon/db/directory";
import type { Inbox } from "~/daemon/db/inbox";
import { Directory, type DirectoryMember } from "~/daemon/directory";
import type { Drain } from "~/daemon/drain";
import type { EventHub } from "~/daemon/events";
import { type Arrivals, Inbound, type Intake } from "~/daemon/inbound";
import type { Seal } from "~/daemon/ipc/handlers/send";
import type { Profile } from "~/daemon/profile";
import type { Writer } from "~/disk/writer";
import { MeshError } from "~/errors";
import { isClaudemeshMesh, type MeshEntry } from "~/identity/config";
import { type BodyVersion, type Letter, sealLetter } from "~/identity/envelope";
import { seedOf } from "~/identity/keys";
import { peerTooOld } from "~/identity/members";
import type { Sealer } from "~/identity/sealer";
import { Link, type LinkStatus } from "~/link/link";
import { fetchMembers } from "~/link/members";
import type { BrokerTerms, Demands } from "~/link/negotiate";
import type { Connect } from "~/link/socket";
import type { LinkEnd } from "~/link/state";
import type { Log } from "~/log";
import type { Settings } from "~/settings/knobs";
import type { BrokerFrame, ParsedBrokerFrame, RequestFrame } from "~/wire/broker";
import { faultOf } from "~/wire/fault";
import { wireFingerprint } from "~/wire/fingerprint";
import { directoryRefreshDelayMs, directoryRetryMs, inlineBytesDefault } from "~/wire/limits";

/** What the sessions of a daemon share. */
export interface SessionParts {
  clock: Clock;
  chance(): number;
  newId(): string;
  log: Log;
  sealer: Sealer;
  connect: Connect;
  drain: Drain;
  inbox: Inbox;
  inboxWriter: Writer;
  directoryStore: DirectoryStore;
  hub: EventHub;
  profile: Profile;
  settings(): Settings;
  sessionId: string;
}

/** A broker may write anything where a name belongs; what looks like one is told. */
const nameIn = (type: string): string => (/^[a-z][a-z0-9_]{0,31}$/.test(type) ? type : "other");

export class MeshSession {
  readonly directory: Directory;
  readonly #parts: SessionParts;
  readonly #link: Link;
  readonly #inbound: Inbound;
  #mesh: MeshEntry;
  #terms: BrokerTerms | undefined;
  #intake: Intake | undefined;
  #refreshTimer: Timer | undefined;
  /** The look at the members that is under way, and the one that follows it. */
  #looking: Promise<void> | undefined;
  #lookingNext: Promise<void> | undefined;
  /** Woken when the directory was fetched for the first time. */
  readonly #fetchedWaiters = new Set<() => void>();

  constructor(mesh: MeshEntry, parts: SessionParts) {
    this.#mesh = mesh;
    this.#parts = parts;
    this.directory = new Directory(parts.directoryStore, mesh);
    this.#inbound = new Inbound({
      mesh,
      inbox: parts.inbox,
      writer: parts.inboxWriter,
      directory: this.directory,
      sealer: parts.sealer,
      clock: parts.clock,
      newId: parts.newId,
      log: parts.log,
      stored: () => parts.hub.announce({ kind: "inbox" }),
      senderUnknown: () => this.#refreshSoon(),
    });
    this.#link = new Link({
      mesh,
      sessionId: parts.sessionId,
      connect: parts.connect,
      clock: parts.clock,
      chance: parts.chance,
      demands: () => demandsOf(parts.settings()),
      owner: {
        opened: (terms) => this.#opened(terms),
        closed: () => this.#closed(),
        received: (parsed) => this.#received(parsed),
        statusChanged: (status) => this.#statusChanged(status),
      },
    });
  }

  get mesh(): MeshEntry {
    return this.#mesh;
  }

  get status(): LinkStatus {
    return this.#link.status;
  }

  /** How often a connection or an attempt has ended so far, by why. */
  get linkEnds(): ReadonlyMap<LinkEnd, number> {
    return this.#link.ends;
  }

  /** What arrived so far. */
  get arrivals(): Arrivals {
    return this.#inbound.arrivals;
  }

  get isOpen(): boolean {
    return this.#link.isOpen;
  }

  /** What the broker of the latest connection offered; undefined before the first. */
  get terms(): BrokerTerms | undefined {
    return this.#terms;
  }

  start(): void {
    this.#link.start();
    this.#retryProblems();
  }

  stop(): void {
    this.#refreshTimer?.cancel();
    this.#link.stop();
  }

  /** Takes over a change of the configuration that needs no new connection. */
  reconfigure(mesh: MeshEntry): void {
    this.#mesh = mesh;
    this.directory.reconfigure(mesh);
    this.#retryProblems();
  }

  /** The settings changed in what they ask of a broker. */
  demandsChanged(): void {
    this.#link.demandsChanged();
  }

  /** Resolves with true once the members were fetched at least once, or with false after `api.directory_wait_ms`. */
  async directoryFetched(): Promise<boolean> {
    if (this.directory.wasFetched) return true;
    // The first look may have failed, and nothing else need ever bring about another.
    if (this.#link.isOpen && this.#looking === undefined) void this.#refresh();
    return new Promise((resolve) => {
      const fetched = () => {
        timer.cancel();
        resolve(true);
      };
      const timer = this.#parts.clock.after(this.#directoryWaitMs, () => {
        this.#fetchedWaiters.delete(fetched);
        resolve(false);
      });
      this.#fetchedWaiters.add(fetched);
    });
  }

  get #directoryWaitMs(): number {
    return this.#parts.settings()["api.directory_wait_ms"];
  }

  /** Looks at the members anew, if the broker can be asked; resolves at the latest after `api.directory_wait_ms`. */
  refreshDirectory(): Promise<void> {
    if (!this.#link.isOpen) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = this.#parts.clock.after(this.#directoryWaitMs, resolve);
      void this.#refresh().then(() => {
        timer.cancel();
        resolve();
      });
    });
  }

  /** How to seal for one member. Throws `peer_too_old` when the message needs more than that member understands. */
  sealFor(recipientPubkey: string, bodyVersion: BodyVersion): Seal {
    const { sealer } = this.#parts;
    const mesh = this.#mesh;
    return (draft) => {
      if (bodyVersion === 1 && (draft.meta !== null || draft.agent !== null))
        throw peerTooOld(this.directory.byKey(recipientPubkey)?.name ?? recipientPubkey.slice(0, 16));
      const letter: Letter = {
        id: draft.clientMessageId,
        meshId: mesh.meshId,
        from: mesh.pubkey,
        to: recipientPubkey,
        body: draft.body,
        meta: draft.meta,
        replyTo: draft.replyTo,
        agent: draft.agent,
        sentAt: isoTime(draft.nowMs),
        expectsReply: draft.expectsReply,
      };
      const inlineBytes = this.#terms?.inlineBytes ?? inlineBytesDefault;
      const sealed = sealLetter(letter, bodyVersion, mesh.secretKey, sealer, inlineBytes);
      return {
        target_spec: recipientPubkey,
        sender_pubkey: mesh.pubkey,
        body_version: bodyVersion,
        ...sealed,
        wire_fingerprint: wireFingerprint(draft.fingerprint, seedOf(mesh.secretKey)),
      };
    };
  }

  /** 2 unless this member said that it understands only 1; a mesh without proofs starts from 1. */
  bodyVersionFor(member: DirectoryMember | undefined): BodyVersion {
    if (member === undefined) return isClaudemeshMesh(this.#mesh) ? 2 : 1;
    return this.directory.speaksBody2(member) ? 2 : 1;
  }

  announceProfile(): void {
    if (!this.#link.isOpen) return;
    for (const frame of this.#parts.profile.frames()) this.#tell(frame);
  }

  // ── The link's owner ───────────────────────────────────────────────────────────────────────────────────────────────

  #opened(terms: BrokerTerms): void {
    const { drain, log } = this.#parts;
    const link = this.#link;
    this.#terms = terms;
    log("info", "link_open", { mesh: this.#mesh.slug, missing: terms.missing });
    this.#intake = this.#inbound.open({
      send: (frame) => link.send(frame),
      drop: (why, end) => link.drop(why, end),
    });
    void this.#refresh();
    this.announceProfile();
    drain.attach(
      this.#mesh.meshId,
      {
        send: (frame) => link.send(frame),
        get bufferedBytes() {
          return link.bufferedBytes;
        },
        reconnect: (why, end) => link.reconnect(why, end),
        drop: (why, end) => link.drop(why, end),
      },
      terms,
    );
  }

  #closed(): void {
    this.#intake?.close();
    this.#intake = undefined;
    this.#refreshTimer?.cancel();
    this.#refreshTimer = undefined;
    this.directory.forgetPresence();
    this.#parts.drain.detach(this.#mesh.meshId);
  }

  #statusChanged(status: LinkStatus): void {
    const { hub, log } = this.#parts;
    log(status.name === "open" || status.name === "connecting" ? "info" : "warn", "link_status", {
      mesh: this.#mesh.slug,
      link: status.name,
      ...(status.why === undefined ? {} : { error: status.why }),
    });
    hub.announce({
      kind: "passing",
      event: {
        event: "broker_status",
        data: {
          mesh: this.#mesh.slug,
          link: status.name,
          since: isoTime(status.sinceMs),
          ...(status.why === undefined ? {} : { error: status.why }),
        },
      },
    });
  }

  #received(parsed: ParsedBrokerFrame): void {
    const { log } = this.#parts;
    switch (parsed.kind) {
      case "frame":
        this.#receivedFrame(parsed.frame);
        return;
      case "bad_push":
        log("warn", "bad_push", { mesh: this.#mesh.slug, error: parsed.why });
        this.#intake?.takeMalformed(parsed.push.messageId, parsed.push);
        return;
      case "bad":
        log("warn", "bad_frame", { mesh: this.#mesh.slug, error: parsed.why });
        return;
      case "unknown":
        log("debug", "unknown_frame", { mesh: this.#mesh.slug, type: nameIn(parsed.type) });
    }
  }

  #receivedFrame(frame: BrokerFrame): void {
    switch (frame.type) {
      case "ack":
        this.#parts.drain.answered(this.#mesh.meshId, frame);
        return;
      case "push":
        if (frame.subtype === "system") this.#refreshSoon();
        else this.#intake?.take(frame);
        return;
      case "error":
        this.#parts.log("warn", "broker_error", { mesh: this.#mesh.slug, code: nameIn(frame.code) });
    }
  }

  // ── Members and presence ───────────────────────────────────────────────────────────────────────────────────────────

  /** Changes often come in groups: one look serves them all. */
  #refreshSoon(delayMs: number = directoryRefreshDelayMs): void {
    if (this.#refreshTimer !== undefined || !this.#link.isOpen) return;
    this.#refreshTimer = this.#parts.clock.after(delayMs, () => {
      this.#refreshTimer = undefined;
      void this.#refresh();
    });
  }

  /** Resolves after a look that began after this call; never rejects. */
  #refresh(): Promise<void> {
    if (this.#looking === undefined) {
      this.#looking = this.#fetchMembers()
        .catch((error: unknown) => {
          this.#parts.log("warn", "members_not_fetched", {
            mesh: this.#mesh.slug,
            error: faultOf(error),
          });
          // Without the members nobody can be written to, and what arrives from new ones waits.
          this.#refreshSoon(directoryRetryMs);
        })
        .finally(() => {
          this.#looking = undefined;
        });
      return this.#looking;
    }
    this.#lookingNext ??= this.#looking.then(() => {
      this.#lookingNext = undefined;
      return this.#refresh();
    });
    return this.#lookingNext;
  }

  async #fetchMembers(): Promise<void> {
    const { hub, clock } = this.#parts;
    const request = (frame: RequestFrame) => this.#link.request(frame);
    const [peers, members] = await Promise.all([
      request({ type: "list_peers" }),
      this.#terms?.members === true ? fetchMembers(request) : undefined,
    ]);
    if (peers.type !== "peers_list") {
      throw new MeshError("bad_gateway", "the broker answered a question for peers with something else");
    }
    const change = this.directory.update(members, peers.peers, clock.now());
    for (const waiter of this.#fetchedWaiters) waiter();
    this.#fetchedWaiters.clear();
    for (const [event, affected] of [
      ["peer_join", change.joined],
      ["peer_leave", change.left],
    ] as const) {
      for (const member of affected) {
        const data = { mesh: this.#mesh.slug, name: member.name, pubkey: member.pubkey };
        hub.announce({ kind: "passing", event: { event, data } });
      }
    }
    await this.#inbound.retryProblems();
  }

  #retryProblems(): void {
    this.#inbound.retryProblems().catch((error: unknown) => {
      this.#parts.log("error", "problems_not_retried", { mesh: this.#mesh.slug, error: faultOf(error) });
    });
  }

  #tell(frame: RequestFrame): void {
    this.#link.request(frame).catch((error: unknown) => {
      this.#parts.log("warn", "broker_did_not_take", {
        mesh: this.#mesh.slug,
        frame: frame.type,
        error: faultOf(error),
      });
    });
  }
}

const demandsOf = (settings: Settings): Demands => ({
  requiredFeatures: settings["link.required_features"],
  maxAgeHours: settings["delivery.max_age_h"],
});
