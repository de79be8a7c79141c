/**
 * Makes a copy of a host a host of its own: new keys and a new membership in every mesh. It can be cut off anywhere and run
 * again, for nothing is undone and each step is known to be done or not:
 *
 * 1. config.json is copied, half-finished joins of the original are put aside, and the plan is written;
 * 2. what the copied outbox has still to send is retired: the original sends it;
 * 3. each mesh: the new keys are on disk before the broker hears of them, and in config.json after it let them in;
 * 4. the record of the host is written, and the plan removed.
 *
 * The original is never touched: nothing here removes a member.
 */
import { randomBytes } from "node:crypto";
import { isoTime } from "~/clock";
import { migrateOutbox, Outbox } from "~/daemon/db/outbox";
import {
  ensureOwnDirectory,
  ensurePrivateDirectory,
  fileExists,
  readTextFile,
  storageError,
  writeFileAtomic,
} from "~/disk/file";
import { tryLock } from "~/disk/lock";
import { closeSqlite, findDamage, openSqlite, wasStoppedUncleanly } from "~/disk/sqlite";
import { MeshError } from "~/errors";
import { type MeshEntry, readConfig, updateConfig, withMesh, withoutMesh } from "~/identity/config";
import { acceptHost, judgeHost, readHostRecord, refuseNewerRecord } from "~/identity/host";
import { readHostFacts } from "~/identity/host-sources";
import { newInvite, parseInviteLink } from "~/identity/invite";
import { type Attempt, beginAttempt, setAttemptsAside } from "~/identity/pending";
import {
  type PlannedMesh,
  type Reminted,
  type RemintedMesh,
  type RemintPlan,
  readRemintPlan,
  removeRemintPlan,
  writeRemintPlan,
} from "~/identity/remint-plan";
import { joinWith, registerInvite } from "~/link/admission";
import { isFinal } from "~/link/failure";
import { fetchMembers } from "~/link/members";
import { type BrokerConnection, connectOnce } from "~/link/once";
import { nameCharsMax, remintInviteMsMax } from "~/wire/limits";
import { encodeInviteLink, type Invite } from "~/wire/membership";
import { type DaemonPaths, daemonPaths, type HostPaths } from "~/wire/paths";

export interface RemintOptions {
  paths: HostPaths;
  /** Invite links, one for a mesh. */
  links: readonly string[];
  /** Meshes, by slug or id, that are taken out instead of joined. */
  forget: readonly string[];
  /** Also where the record says that these files are this host's, as on clones that share a host id. */
  force: boolean;
  /** What this host is to be called, if nobody is yet; asked for only when a mesh is joined. */
  ownName: () => string;
  nowMs: () => number;
}

interface GivenInvite {
  invite: Invite;
  link: string;
}

/** Throws `already_running`, what stands in the way before anything was changed, or what a mesh's broker answered. */
export async function remint(options: RemintOptions): Promise<Reminted> {
  const paths = daemonPaths(options.paths.daemonDir);
  ensureOwnDirectory(options.paths.configDir);
  ensurePrivateDirectory(paths.dir);
  const lock = tryLock(paths.lock);
  if (lock === undefined) {
    throw new MeshError("already_running", `a daemon runs with these keys (${paths.dir})`, {
      hint: "Stop it, then try again: claudemesh daemon down",
    });
  }
  try {
    return await new Remint(options, paths).run();
  } finally {
    lock.release();
  }
}

class Remint {
  readonly #options: RemintOptions;
  readonly #paths: DaemonPaths;
  readonly #configDir: string;
  readonly #configFile: string;
  readonly #resumed: boolean;
  #plan: RemintPlan;

  /** Looks at everything and changes nothing. */
  constructor(options: RemintOptions, paths: DaemonPaths) {
    this.#options = options;
    this.#paths = paths;
    this.#configDir = options.paths.configDir;
    this.#configFile = options.paths.configFile;
    const record = readHostRecord(paths.hostRecord);
    refuseNewerRecord(record, paths.hostRecord);
    const facts = readHostFacts();
    const host = facts.id?.sha256 ?? null;
    const earlier = readRemintPlan(this.#configDir);
    this.#resumed = earlier !== undefined && earlier.host === host;
    this.#plan =
      earlier !== undefined && this.#resumed ? earlier : newPlan(options.nowMs(), host, this.#configFile);
    const isOwn = judgeHost(record, facts, "refuse").kind === "same";
    if (isOwn && !this.#resumed && !options.force) throw noCopy(paths.hostRecord);
  }

  async run(): Promise<Reminted> {
    const invites = this.#invites();
    const forgotten = new Set(this.#options.forget.map((text) => plannedMesh(this.#plan, text).mesh_id));
    if (!this.#resumed) this.#begin();
    const retired_messages = this.#retireOutbox();
    const meshes: RemintedMesh[] = [];
    const failures: { planned: PlannedMesh; error: MeshError }[] = [];
    for (const planned of this.#plan.meshes) {
      try {
        meshes.push(
          await this.#remintMesh(planned, invites.get(planned.mesh_id), forgotten.has(planned.mesh_id)),
        );
      } catch (error) {
        // One broker that is away must not keep the other meshes waiting.
        if (!(error instanceof MeshError)) throw error;
        failures.push({ planned, error });
      }
    }
    const [failure] = failures;
    const backup = this.#plan.backup === "" ? null : this.#plan.backup;
    if (failure !== undefined) throw unfinished(failure, failures, { backup, retired_messages, meshes });
    acceptHost(this.#paths.hostRecord, this.#options.nowMs());
    removeRemintPlan(this.#configDir);
    return { resumed: this.#resumed, backup, retired_messages, meshes };
  }

  /** The given links by mesh, each checked. One that has run out is refused now, unless a run that was cut off may have used it. */
  #invites(): Map<string, GivenInvite> {
    const invites = new Map<string, GivenInvite>();
    const known = new Map(readConfig(this.#configFile).meshes.map((mesh) => [mesh.meshId, mesh]));
    for (const link of this.#options.links) {
      const invite = parseInviteLink(link, this.#resumed ? 0 : this.#options.nowMs());
      const { mesh_id, mesh_slug, owner_pubkey } = invite;
      if (invites.has(mesh_id)) throw new MeshError("usage", `two of the invites lead to ${mesh_slug}`);
      if (!this.#plan.meshes.some((planned) => planned.mesh_id === mesh_id)) {
        throw new MeshError("usage", `an invite leads to ${mesh_slug}, which this host is not in`, {
          hint: "Leave it out here, and join with it afterwards: claudemesh join LINK",
        });
      }
      const owner = known.get(mesh_id)?.ownerPubkey;
      if (owner !== undefined && owner !== owner_pubkey) {
        throw new MeshError(
          "invite_invalid",
          `the invite to ${mesh_slug} is not signed by the mesh's owner as this host knows it`,
          {
            hint: "Ask the owner for a fresh one: claudemesh mesh invite",
          },
        );
      }
      invites.set(mesh_id, { invite, link });
    }
    return invites;
  }

  #begin(): void {
    const { backup } = this.#plan;
    if (backup !== "") writeFileAtomic(backup, readTextFile(this.#configFile) ?? "");
    setAttemptsAside(this.#configDir, `before-remint-${this.#options.nowMs()}`);
    writeRemintPlan(this.#configDir, this.#plan);
  }

  /** Whatever was sealed with a key that this remint made stays: a daemon may have run between two attempts. */
  #retireOutbox(): number {
    const { outbox: path } = this.#paths;
    if (!fileExists(path)) return 0;
    const copied = new Set(this.#plan.meshes.map((planned) => planned.copied_pubkey));
    const own = readConfig(this.#configFile)
      .meshes.map((mesh) => mesh.pubkey)
      .filter((pubkey) => !copied.has(pubkey));
    try {
      const unclean = wasStoppedUncleanly(path);
      const db = openSqlite(path);
      try {
        // What this closes cleanly is not looked at again by the daemon.
        const [damage] = unclean ? findDamage(db) : [];
        if (damage !== undefined)
          throw new MeshError("database_corrupt", `${path} is damaged: ${damage}`, { hint: damageHint });
        migrateOutbox(db);
        return new Outbox(db).abortUnfinished("remint", own, this.#options.nowMs());
      } finally {
        closeSqlite(db);
      }
    } catch (error) {
      const failure = storageError(`cannot retire what ${path} has still to send`, error);
      if (failure.code !== "database_corrupt") throw failure;
      throw new MeshError(failure.code, failure.message, { hint: damageHint, cause: error });
    }
  }

  async #remintMesh(
    planned: PlannedMesh,
    given: GivenInvite | undefined,
    isForgotten: boolean,
  ): Promise<RemintedMesh> {
    const { mesh_id, slug, copied_pubkey } = planned;
    const entry = readConfig(this.#configFile).meshes.find((mesh) => mesh.meshId === mesh_id);
    if (entry !== undefined && entry.pubkey !== copied_pubkey) {
      this.#attemptFor(planned).end();
      return { mesh_id, slug, outcome: "joined", member_id: entry.memberId, pubkey: entry.pubkey };
    }
    if (!isForgotten) {
      if (given !== undefined) return await this.#join(planned, given, entry, await namesIn(entry));
      if (entry !== undefined && canInvite(entry)) return await this.#joinAsOwn(planned, entry);
    }
    if (entry !== undefined) updateConfig(this.#configFile, (config) => withoutMesh(config, mesh_id));
    return { mesh_id, slug, outcome: "taken_out" };
  }

  /** The copied keys are the owner's: they invite this host, once, as an ordinary member. */
  async #joinAsOwn(planned: PlannedMesh, entry: MeshEntry): Promise<RemintedMesh> {
    const noted = this.#plan.meshes.find((mesh) => mesh.mesh_id === planned.mesh_id)?.own_link;
    const link = noted ?? this.#noteOwnLink(planned, entry);
    const invite = parseInviteLink(link, 0);
    if (invite.v !== 3) throw new Error("an invite of our own has version 3");
    try {
      const names = await withConnection(entry, async (connection) => {
        await registerInvite(connection, invite, 1);
        return await memberNames(connection);
      });
      return await this.#join(planned, { invite, link }, entry, names);
    } catch (error) {
      // An earlier run made it so long ago that it is good for nothing any more.
      if (noted === undefined || !isFinal(error)) throw error;
      this.#noteLink(planned, undefined);
      return await this.#joinAsOwn(planned, entry);
    }
  }

  #noteOwnLink(planned: PlannedMesh, entry: MeshEntry): string {
    const link = encodeInviteLink(newInvite(entry, "member", this.#options.nowMs() + remintInviteMsMax));
    this.#noteLink(planned, link);
    return link;
  }

  #noteLink({ mesh_id }: PlannedMesh, link: string | undefined): void {
    const meshes = this.#plan.meshes.map(({ own_link, ...mesh }) => {
      const noted = mesh.mesh_id === mesh_id ? link : own_link;
      return noted === undefined ? mesh : { ...mesh, own_link: noted };
    });
    this.#plan = { ...this.#plan, meshes };
    writeRemintPlan(this.#configDir, this.#plan);
  }

  #attemptFor({ mesh_id }: PlannedMesh): Attempt {
    return beginAttempt(this.#configDir, ["remint", this.#plan.id, mesh_id]);
  }

  async #join(
    planned: PlannedMesh,
    { invite, link }: GivenInvite,
    earlier: MeshEntry | undefined,
    names: MemberName[] | undefined,
  ): Promise<RemintedMesh> {
    const attempt = this.#attemptFor(planned);
    const name = freeName(this.#options.ownName(), names, attempt.pubkey);
    let joined: MeshEntry;
    try {
      joined = await joinWith(invite, link, attempt, name, this.#options.nowMs());
    } catch (error) {
      if (isFinal(error)) attempt.end();
      throw error;
    }
    const kept = {
      ...(earlier === undefined ? {} : { name: earlier.name }),
      ...(earlier?.trustedKeys === undefined ? {} : { trustedKeys: earlier.trustedKeys }),
    };
    updateConfig(this.#configFile, (config) => withMesh(config, { ...joined, ...kept }));
    attempt.end();
    const { memberId: member_id, pubkey } = joined;
    return { mesh_id: joined.meshId, slug: joined.slug, outcome: "joined", member_id, pubkey, name };
  }
}

const noCopy = (record: string): MeshError =>
  new MeshError("not_allowed", `${record} was written on this host: these files seem to be no copy`, {
    hint: "New keys would be a new member, and the old ones would be lost here. If this is a copy all the same (clones that share a host id): claudemesh daemon remint --force",
  });

const damageHint = "claudemesh daemon recover salvages what can be read; then try again.";

function newPlan(nowMs: number, host: string | null, configFile: string): RemintPlan {
  return {
    version: 1,
    id: randomBytes(16).toString("hex"),
    started_at: isoTime(nowMs),
    host,
    backup: fileExists(configFile) ? `${configFile}.before-remint-${nowMs}` : "",
    meshes: readConfig(configFile).meshes.map(({ meshId, slug, pubkey }) => ({
      mesh_id: meshId,
      slug,
      copied_pubkey: pubkey,
    })),
  };
}

function plannedMesh({ meshes }: RemintPlan, text: string): PlannedMesh {
  const [found, second] = meshes.filter(({ mesh_id, slug }) => mesh_id === text || slug === text);
  if (second !== undefined) {
    throw new MeshError("mesh_required", `several meshes are called ${text}`, {
      hint: "Name the one you mean by its id: claudemesh mesh list --json",
    });
  }
  if (found !== undefined) return found;
  throw new MeshError("no_such_mesh", `this host is in no mesh called ${text}`, {
    hint: `It is in: ${meshes.map(({ slug }) => slug).join(", ") || "none"}`,
  });
}

function unfinished(
  { planned: { slug }, error }: { planned: PlannedMesh; error: MeshError },
  failures: readonly { planned: PlannedMesh; error: MeshError }[],
  done: Record<string, unknown>,
): MeshError {
  const others = failures.slice(1).map(({ planned }) => planned.slug);
  const also = others.length === 0 ? "" : ` (and not in ${others.join(", ")} either)`;
  return new MeshError(error.code, `this host has no new keys in ${slug} yet${also}: ${error.message}`, {
    hint: `${error.hint === undefined ? "" : `${error.hint} `}What was done stays done; run the same command again, with a fresh --invite LINK where one was refused. To do without the mesh: --forget ${slug}`,
    details: {
      ...error.details,
      ...done,
      failed: failures.map(({ planned, error: { code, message } }) => ({
        mesh_id: planned.mesh_id,
        slug: planned.slug,
        error: code,
        message,
      })),
    },
    cause: error,
  });
}

/** Whether the keys of this entry are the mesh's owner's, and such that they can make an invite. */
const canInvite = (mesh: MeshEntry): boolean =>
  mesh.ownerPubkey === mesh.pubkey && mesh.rootKey !== undefined && mesh.inviteVersion === 3;

// ── Names ───────────────────────────────────────────────────────────────────────────────────────────────────────────

interface MemberName {
  name: string;
  pubkey: string;
}

async function withConnection<T>(
  mesh: MeshEntry,
  errand: (connection: BrokerConnection) => Promise<T>,
): Promise<T> {
  const connection = await connectOnce(mesh);
  try {
    return await errand(connection);
  } finally {
    connection.close();
  }
}

const memberNames = async (connection: BrokerConnection): Promise<MemberName[]> =>
  (await fetchMembers((frame) => connection.request(frame))).map(({ display_name, pubkey }) => ({
    name: display_name,
    pubkey,
  }));

/** Who is in the mesh, as the copied keys are told, if they still are; joining does not depend on it. */
async function namesIn(mesh: MeshEntry | undefined): Promise<MemberName[] | undefined> {
  if (mesh === undefined) return undefined;
  try {
    return await withConnection(mesh, memberNames);
  } catch (error) {
    if (error instanceof MeshError) return undefined;
    throw error;
  }
}

/**
 * The wanted name, or with a number behind it when somebody has it, as the original usually does. A broker takes the same name
 * twice, but then nobody could address either by it. Without a list of names, a part of the key makes it a name of its own.
 */
export function freeName(
  wanted: string,
  members: readonly MemberName[] | undefined,
  ownPubkey: string,
): string {
  const withSuffix = (suffix: string) => wanted.slice(0, nameCharsMax - suffix.length).trimEnd() + suffix;
  if (members === undefined) return withSuffix(`-${ownPubkey.slice(0, 6)}`);
  const taken = new Set(
    members.filter(({ pubkey }) => pubkey !== ownPubkey).map(({ name }) => name.toLowerCase()),
  );
  let name = wanted;
  for (let number = 2; taken.has(name.toLowerCase()); number++) name = withSuffix(`-${number}`);
  return name;
}
