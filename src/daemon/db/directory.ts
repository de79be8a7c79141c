/**
 * What this host knows of its meshes' members, kept on disk so that a send resolves while the broker is away: the last
 * list, the key that each name was first seen with, and this host's own profile. It is a database of its own, because
 * the first-seen keys must outlive a damaged inbox.
 */
import type { Database } from "bun:sqlite";
import * as v from "valibot";
import { migrate } from "~/disk/sqlite";
import { Admission, type MemberEntry, PeerEntry } from "~/wire/broker";

const schema = [
  `CREATE TABLE members (
    mesh TEXT NOT NULL,
    pubkey TEXT NOT NULL,
    member_id TEXT NOT NULL,
    name TEXT NOT NULL,
    role TEXT NOT NULL,
    capabilities TEXT NOT NULL,
    joined_at TEXT NOT NULL,
    last_seen_at TEXT,
    admission TEXT,
    peer TEXT,
    PRIMARY KEY (mesh, pubkey)
  ) WITHOUT ROWID;
  CREATE TABLE first_keys (
    mesh TEXT NOT NULL,
    name TEXT NOT NULL,
    pubkey TEXT NOT NULL,
    seen_at INTEGER NOT NULL,
    PRIMARY KEY (mesh, name)
  ) WITHOUT ROWID;
  CREATE TABLE fetched (mesh TEXT PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID;
  CREATE TABLE profile (one INTEGER PRIMARY KEY CHECK (one = 1), json TEXT NOT NULL);`,
] as const;

export const migrateDirectory = (db: Database): void => migrate(db, schema);
export const directorySchemaVersion = schema.length;

/** A member as last listed; `peer` is its presence as last seen. */
export interface KnownMember {
  memberId: string;
  pubkey: string;
  name: string;
  role: string;
  capabilities: string[];
  joinedAt: string;
  lastSeenAt: string | undefined;
  admission: Admission | undefined;
  peer: PeerEntry | undefined;
}

interface MemberRecord {
  member_id: string;
  pubkey: string;
  name: string;
  role: string;
  capabilities: string;
  joined_at: string;
  last_seen_at: string | null;
  admission: string | null;
  peer: string | null;
}

const StoredJson = v.object({
  capabilities: v.pipe(v.string(), v.parseJson(), v.array(v.string())),
  admission: v.nullable(v.pipe(v.string(), v.parseJson(), Admission)),
  peer: v.nullable(v.pipe(v.string(), v.parseJson(), PeerEntry)),
});

export class DirectoryStore {
  readonly db: Database;

  constructor(db: Database) {
    this.db = db;
  }

  /** Without those whose rows are garbled: the broker lists them again. */
  members(mesh: string): KnownMember[] {
    return this.db
      .query<MemberRecord, [string]>("SELECT * FROM members WHERE mesh = ? ORDER BY name, pubkey")
      .all(mesh)
      .flatMap((row) => {
        const parsed = v.safeParse(StoredJson, row);
        if (!parsed.success) return [];
        const { capabilities, admission, peer } = parsed.output;
        return [
          {
            memberId: row.member_id,
            pubkey: row.pubkey,
            name: row.name,
            role: row.role,
            capabilities,
            joinedAt: row.joined_at,
            lastSeenAt: row.last_seen_at ?? undefined,
            admission: admission ?? undefined,
            peer: peer ?? undefined,
          },
        ];
      });
  }

  /** Replaces the list of a mesh, and pins the names of `believed` that are seen for the first time to their keys. */
  replaceMembers(
    mesh: string,
    members: readonly MemberEntry[],
    peers: ReadonlyMap<string, PeerEntry>,
    believed: readonly MemberEntry[],
    nowMs: number,
  ): void {
    this.db
      .transaction(() => {
        this.db.query("DELETE FROM members WHERE mesh = ?").run(mesh);
        for (const member of members) {
          const peer = peers.get(member.pubkey);
          this.db
            .query(
              `INSERT OR REPLACE INTO members (mesh, pubkey, member_id, name, role, capabilities, joined_at, last_seen_at, admission, peer)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
            )
            .run(
              mesh,
              member.pubkey,
              member.member_id,
              member.display_name,
              member.role,
              JSON.stringify(member.capabilities),
              member.joined_at,
              member.last_seen_at ?? null,
              member.admission === undefined ? null : JSON.stringify(member.admission),
              peer === undefined ? null : JSON.stringify(peer),
            );
        }
        for (const member of believed) {
          this.db
            .query(
              "INSERT INTO first_keys (mesh, name, pubkey, seen_at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            )
            .run(mesh, member.display_name.toLowerCase(), member.pubkey, nowMs);
        }
        this.db
          .query(
            "INSERT INTO fetched (mesh, at) VALUES (?, ?) ON CONFLICT (mesh) DO UPDATE SET at = excluded.at",
          )
          .run(mesh, nowMs);
      })
      .immediate();
  }

  firstKeys(mesh: string): Map<string, string> {
    const rows = this.db
      .query<{ name: string; pubkey: string }, [string]>("SELECT name, pubkey FROM first_keys WHERE mesh = ?")
      .all(mesh);
    return new Map(rows.map((row) => [row.name, row.pubkey]));
  }

  wasFetched(mesh: string): boolean {
    return this.db.query("SELECT 1 FROM fetched WHERE mesh = ?").get(mesh) !== null;
  }

  profile(): string | undefined {
    return this.db.query<{ json: string }, []>("SELECT json FROM profile").get()?.json;
  }

  setProfile(json: string): void {
    this.db
      .query(
        "INSERT INTO profile (one, json) VALUES (1, ?) ON CONFLICT (one) DO UPDATE SET json = excluded.json",
      )
      .run(json);
  }
}
