/**
 * The tables of the broker's database. `dedupe` stands for (mesh, sender's key, client_message_id), for a member row is one key in
 * one mesh; a row of it exists if and only if its message was accepted, and `messages` has a row for each. `messages.seq` is the
 * order of acceptance, and with it that of every recipient's deliveries. A message that was pruned (`pruned_at`) has lost nonce and
 * ciphertext and waits for nobody; its row goes with its dedupe record. Times are milliseconds since 1970, but for
 * `invites.expires_at`, which is in seconds as signed.
 */
export const schemaSteps = [
  `CREATE TABLE meshes (
     mesh INTEGER PRIMARY KEY,
     mesh_id TEXT NOT NULL UNIQUE,
     slug TEXT NOT NULL UNIQUE,
     name TEXT NOT NULL,
     owner_pubkey TEXT NOT NULL,
     created_at INTEGER NOT NULL
   ) STRICT;
   CREATE TABLE invites (
     invite INTEGER PRIMARY KEY,
     invite_id TEXT NOT NULL UNIQUE,
     mesh INTEGER NOT NULL REFERENCES meshes,
     public_key TEXT NOT NULL,
     role TEXT NOT NULL CHECK (role IN ('admin', 'member')),
     expires_at INTEGER NOT NULL,
     max_uses INTEGER NOT NULL,
     uses INTEGER NOT NULL DEFAULT 0,
     text TEXT NOT NULL,
     signature TEXT NOT NULL,
     created_at INTEGER NOT NULL,
     revoked_at INTEGER
   ) STRICT;
   CREATE INDEX invites_not_revoked ON invites (mesh) WHERE revoked_at IS NULL;
   CREATE TABLE members (
     member INTEGER PRIMARY KEY,
     member_id TEXT NOT NULL UNIQUE,
     mesh INTEGER NOT NULL REFERENCES meshes,
     pubkey TEXT NOT NULL,
     display_name TEXT NOT NULL,
     role TEXT NOT NULL CHECK (role IN ('owner', 'admin', 'member')),
     capabilities TEXT NOT NULL DEFAULT '[]',
     joined_at INTEGER NOT NULL,
     last_seen_at INTEGER,
     removed_at INTEGER,
     invite INTEGER REFERENCES invites,
     join_text TEXT,
     join_proof TEXT,
     UNIQUE (mesh, pubkey)
   ) STRICT;
   CREATE TABLE hellos (
     signature TEXT PRIMARY KEY,
     member INTEGER NOT NULL REFERENCES members,
     signed_at INTEGER NOT NULL
   ) STRICT, WITHOUT ROWID;
   CREATE INDEX hellos_by_member ON hellos (member);
   CREATE INDEX hellos_by_time ON hellos (signed_at);
   CREATE TABLE messages (
     seq INTEGER PRIMARY KEY AUTOINCREMENT,
     message_id TEXT NOT NULL UNIQUE,
     mesh INTEGER NOT NULL REFERENCES meshes,
     sender INTEGER NOT NULL REFERENCES members,
     client_message_id TEXT NOT NULL,
     request_fingerprint TEXT,
     target_spec TEXT NOT NULL,
     priority TEXT NOT NULL,
     nonce BLOB NOT NULL,
     ciphertext BLOB NOT NULL,
     reply_to_id TEXT,
     body_version INTEGER,
     created_at INTEGER NOT NULL
   ) STRICT;
   CREATE TABLE dedupe (
     sender INTEGER NOT NULL REFERENCES members,
     client_message_id TEXT NOT NULL,
     request_fingerprint TEXT,
     message_id TEXT NOT NULL,
     first_seen_at INTEGER NOT NULL,
     PRIMARY KEY (sender, client_message_id)
   ) STRICT, WITHOUT ROWID;
   CREATE TABLE deliveries (
     recipient INTEGER NOT NULL REFERENCES members,
     seq INTEGER NOT NULL REFERENCES messages,
     delivered_at INTEGER,
     PRIMARY KEY (recipient, seq)
   ) STRICT, WITHOUT ROWID;
   CREATE INDEX undelivered ON deliveries (recipient, seq) WHERE delivered_at IS NULL;`,

  // What is old is found by its time, and a message's deliveries by the message.
  `ALTER TABLE messages ADD COLUMN pruned_at INTEGER;
   CREATE INDEX messages_whole ON messages (created_at) WHERE pruned_at IS NULL;
   CREATE INDEX messages_pruned ON messages (created_at) WHERE pruned_at IS NOT NULL;
   CREATE TABLE deliveries_by_message (
     seq INTEGER NOT NULL REFERENCES messages,
     recipient INTEGER NOT NULL REFERENCES members,
     delivered_at INTEGER,
     PRIMARY KEY (seq, recipient)
   ) STRICT, WITHOUT ROWID;
   INSERT INTO deliveries_by_message (seq, recipient, delivered_at)
     SELECT seq, recipient, delivered_at FROM deliveries ORDER BY seq, recipient;
   DROP TABLE deliveries;
   ALTER TABLE deliveries_by_message RENAME TO deliveries;
   CREATE INDEX undelivered ON deliveries (recipient, seq) WHERE delivered_at IS NULL;`,
];
