/**
 * The meshes that this host is in, as config.json says at any time: a session is started, changed or stopped as the file
 * changes, and the outbox follows (rows of a mesh that was left end, rows sealed with an old key are sealed anew). A file
 * that does not parse or is gone changes nothing: what runs goes on, and health says so.
 */
import { type FSWatcher, watch } from "node:fs";
import { basename, dirname } from "node:path";
import * as v from "valibot";
import type { Timer } from "~/clock";
import type { Outbox, OutboxRow } from "~/daemon/db/outbox";
import type { SealedColumns } from "~/daemon/ipc/handlers/send";
import { MeshSession, type SessionParts } from "~/daemon/mesh-session";
import { fileExists } from "~/disk/file";
import type { Writer } from "~/disk/writer";
import { asMeshError, MeshError, messageOf } from "~/errors";
import { type Config, type MeshEntry, readConfig } from "~/identity/config";
import { faultOf } from "~/wire/fault";
import type { Problem } from "~/wire/ipc";
import { configCheckEveryMs, configSettleMs } from "~/wire/limits";
import { JsonObjectText } from "~/wire/text";

export interface MeshesOptions {
  configFile: string;
  outbox: Outbox;
  outboxWriter: Writer;
  parts: SessionParts;
  /** A row of the outbox changed. */
  changed(clientMessageId: string): void;
  /** A second file of the same directory: whoever reads it need not watch for it, nor look at it every now and then. */
  alsoWatched?: { path: string; mayHaveChanged(): void } | undefined;
}

export class Meshes {
  readonly #options: MeshesOptions;
  readonly #sessions = new Map<string, MeshSession>();
  #watcher: FSWatcher | undefined;
  #timer: Timer | undefined;
  #settling: Timer | undefined;
  #problem: Problem | undefined;
  #stopped = false;

  constructor(options: MeshesOptions) {
    this.#options = options;
  }

  get sessions(): MeshSession[] {
    return [...this.#sessions.values()];
  }

  /** What is wrong with config.json at the moment. */
  get problem(): Problem | undefined {
    return this.#problem;
  }

  byId(meshId: string): MeshSession | undefined {
    return this.#sessions.get(meshId);
  }

  /** The mesh that a caller means by its slug or id; a file that changed a moment ago is read first. */
  byText(text: string): MeshSession {
    let found = this.#called(text);
    if (found.length === 0) {
      this.reload();
      found = this.#called(text);
    }
    const [only, second] = found;
    const slugs = this.sessions.map(({ mesh }) => mesh.slug);
    if (only === undefined) {
      throw new MeshError("no_such_mesh", `this host is in no mesh called ${text}`, {
        hint: slugs.length === 0 ? "Join one: claudemesh join LINK" : `It is in: ${slugs.join(", ")}`,
        details: { meshes: slugs },
      });
    }
    if (second !== undefined) {
      throw new MeshError("mesh_required", `${found.length} meshes are called ${text}`, {
        hint: `Name the one you mean by what stands for it alone: ${found.map(({ mesh }) => this.slugOf(mesh.meshId)).join(", ")}`,
        details: { meshes: found.map(({ mesh }) => mesh.meshId) },
      });
    }
    return only;
  }

  /** The mesh as people know it; by its id when that name is another mesh's name or id as well, or when it was left. */
  slugOf(meshId: string): string {
    const slug = this.#sessions.get(meshId)?.mesh.slug;
    if (slug === undefined) return meshId;
    return this.#called(slug).length === 1 ? slug : meshId;
  }

  #called(text: string): MeshSession[] {
    return this.sessions.filter(({ mesh }) => mesh.slug === text || mesh.meshId === text);
  }

  start(): void {
    this.reload();
    this.#watch();
    this.#checkLater();
  }

  /** The settings changed in what they ask of brokers. */
  demandsChanged(): void {
    for (const session of this.#sessions.values()) session.demandsChanged();
  }

  stop(): void {
    this.#stopped = true;
    this.#watcher?.close();
    this.#timer?.cancel();
    this.#settling?.cancel();
    for (const session of this.#sessions.values()) session.stop();
  }

  /** Reads config.json and does what changed in it. */
  reload(): void {
    if (this.#stopped) return;
    const config = this.#read();
    if (config === undefined) return;
    const wanted = new Map(config.meshes.map((mesh) => [mesh.meshId, mesh]));
    for (const [meshId, session] of this.#sessions) {
      if (!wanted.has(meshId)) this.#leave(meshId, session);
    }
    for (const mesh of wanted.values()) this.#enter(mesh);
    this.#endOrphans(wanted);
  }

  #read(): Config | undefined {
    const { configFile, outbox } = this.#options;
    try {
      const config = readConfig(configFile);
      const mustExist = this.#sessions.size > 0 || outbox.meshesWithUnfinished().length > 0;
      if (mustExist && !fileExists(configFile)) {
        this.#report({
          code: "config_missing",
          message: `${configFile} is gone; the meshes that run go on with what was read before`,
          hint: "Put it back. To leave a mesh, use claudemesh mesh leave.",
        });
        return undefined;
      }
      this.#problem = undefined;
      return config;
    } catch (error) {
      const { code, message, hint } = asMeshError(error);
      this.#report({ code, message, ...(hint === undefined ? {} : { hint }) });
      return undefined;
    }
  }

  #report(problem: Problem): void {
    if (this.#problem?.message !== problem.message) {
      this.#options.parts.log("error", problem.code, { error: problem.message });
    }
    this.#problem = problem;
  }

  #enter(mesh: MeshEntry): void {
    const running = this.#sessions.get(mesh.meshId);
    if (running !== undefined) {
      if (Bun.deepEquals(running.mesh, mesh)) return;
      if (isSameConnection(running.mesh, mesh)) {
        running.reconfigure(mesh);
        return;
      }
      running.stop();
    }
    const session = new MeshSession(mesh, this.#options.parts);
    this.#sessions.set(mesh.meshId, session);
    if (this.#options.outbox.sealedByOtherKey(mesh.meshId, mesh.pubkey).length === 0) this.#start(session);
    else void this.#sealAnewAndStart(session);
  }

  #start(session: MeshSession): void {
    if (this.#stopped || this.#sessions.get(session.mesh.meshId) !== session) return;
    session.start();
    this.#options.parts.log("info", "mesh_started", { mesh: session.mesh.slug });
  }

  /** What the old key sealed could not be opened as a message of the new one: until none is left, nothing goes to the broker. */
  async #sealAnewAndStart(session: MeshSession): Promise<void> {
    const { meshId } = session.mesh;
    if (await this.#sealAnew(session)) this.#start(session);
    // The next look at config.json tries again.
    else if (this.#sessions.get(meshId) === session) this.#sessions.delete(meshId);
  }

  #leave(meshId: string, session: MeshSession): void {
    this.#sessions.delete(meshId);
    session.stop();
    this.#options.parts.log("info", "mesh_left", { mesh: session.mesh.slug });
  }

  /** Rows of a mesh that this host is no longer in can never leave. */
  #endOrphans(wanted: ReadonlyMap<string, unknown>): void {
    const { outbox } = this.#options;
    const orphaned = outbox.meshesWithUnfinished().filter((meshId) => !wanted.has(meshId));
    if (orphaned.length === 0) return;
    void this.#changeRows(() => {
      const rows = orphaned.flatMap((meshId) => outbox.unfinishedOfMesh(meshId));
      for (const row of rows) outbox.markDead(row.seq, "mesh_left");
      return rows;
    });
  }

  /**
   * The member's key changed: what was never sent is sealed with the new one. What was sent once may be at the broker
   * under the old key, where the new one could not be told from a second message: that ends.
   */
  #sealAnew(session: MeshSession): Promise<boolean> {
    const { outbox } = this.#options;
    const { mesh } = session;
    return this.#changeRows(() => {
      const rows = outbox.sealedByOtherKey(mesh.meshId, mesh.pubkey);
      for (const row of rows) {
        const sealed = this.#sealedAnew(row, session);
        if ("lastError" in sealed) outbox.markDead(row.seq, sealed.lastError);
        else outbox.replaceSeal(row.seq, sealed);
      }
      return rows;
    });
  }

  #sealedAnew(row: OutboxRow, session: MeshSession): SealedColumns | { lastError: string } {
    if (row.first_sent_at !== null || row.payload === null || row.destination_ref === null)
      return { lastError: "sender_key_changed" };
    const bodyVersion = session.bodyVersionFor(session.directory.byKey(row.destination_ref));
    try {
      const draft = sealDraftOf(row, this.#options.parts.clock.now());
      return session.sealFor(row.destination_ref, bodyVersion)(draft);
    } catch (error) {
      return { lastError: `sender_key_changed: ${messageOf(error)}` };
    }
  }

  /** Resolves with whether it is on disk; never rejects. */
  #changeRows(change: () => OutboxRow[]): Promise<boolean> {
    const { outboxWriter, parts, changed } = this.#options;
    return outboxWriter.submit(change).then(
      (rows) => {
        for (const row of rows) changed(row.client_message_id);
        return true;
      },
      (error: unknown) => {
        parts.log("error", "outbox_not_updated", { error: faultOf(error) });
        return false;
      },
    );
  }

  /** The directory is watched, not the file: it is replaced as a whole by every change. */
  #watch(): void {
    const { configFile, alsoWatched, parts } = this.#options;
    try {
      this.#watcher = watch(dirname(configFile), { persistent: false }, (_event, name) => {
        const isOther = alsoWatched !== undefined && name === basename(alsoWatched.path);
        if (name === null || isOther || name === basename(configFile)) this.#reloadSoon();
      });
      this.#watcher.on("error", (error) =>
        parts.log("warn", "config_watch_failed", { error: faultOf(error) }),
      );
    } catch (error) {
      parts.log("warn", "config_watch_failed", { error: faultOf(error) });
    }
  }

  /** At once, and again when it is quiet: of several changes within some milliseconds we may be told of the first alone. */
  #reloadSoon(): void {
    const { clock } = this.#options.parts;
    clock.soon(() => this.reload());
    this.#settling?.cancel();
    this.#settling = clock.after(configSettleMs, () => this.#lookAtBoth());
  }

  /** The other file only when it is quiet: an editor that empties it before it writes would else have settings come and go. */
  #lookAtBoth(): void {
    this.reload();
    this.#options.alsoWatched?.mayHaveChanged();
  }

  /** Some file systems tell nobody of changes: a slow look makes up for it. */
  #checkLater(): void {
    this.#timer = this.#options.parts.clock.after(configCheckEveryMs, () => {
      this.#lookAtBoth();
      this.#checkLater();
    });
  }
}

/** What sealing a stored row anew needs. */
export const sealDraftOf = (row: OutboxRow, nowMs: number) => ({
  clientMessageId: row.client_message_id,
  fingerprint: row.request_fingerprint,
  body: row.payload ?? "",
  meta: row.meta === null ? null : v.parse(JsonObjectText, row.meta),
  replyTo:
    row.reply_to_id !== null && row.reply_to_sender !== null
      ? { id: row.reply_to_id, sender: row.reply_to_sender }
      : null,
  agent: row.agent,
  expectsReply: row.expects_reply === 1,
  nowMs,
});

const isSameConnection = (a: MeshEntry, b: MeshEntry): boolean =>
  a.brokerUrl === b.brokerUrl &&
  a.secretKey === b.secretKey &&
  a.memberId === b.memberId &&
  a.inviteVersion === b.inviteVersion &&
  a.ownerPubkey === b.ownerPubkey;
