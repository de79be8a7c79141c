/**
 * Several files put in the place of others as one step: what is to be moved is written down first, and then done. A process that
 * dies before that has changed nothing; one that dies after it leaves a list that whoever comes next carries to its end.
 * The caller holds a lock that keeps everybody away who uses the files.
 */
import { lstatSync, mkdirSync, renameSync } from "node:fs";
import { dirname } from "node:path";
import * as v from "valibot";
import { readTextFile, removeFile, storageError, syncDirectory, writeFileAtomic } from "~/disk/file";
import { MeshError } from "~/errors";

const Move = v.strictObject({ from: v.string(), to: v.string() });
/** Both on the same file system. A `from` that is not there is fine: then there is nothing to move. */
export type Move = v.InferOutput<typeof Move>;

const List = v.pipe(
  v.string(),
  v.parseJson(),
  v.strictObject({ version: v.literal(1), moves: v.array(Move) }),
);

/** Carries the moves out, in order. No `to` may be there before its turn. `listFile` is where they are written down meanwhile. */
export function moveTogether(listFile: string, moves: readonly Move[]): void {
  writeFileAtomic(listFile, JSON.stringify({ version: 1, moves }));
  finishMoves(listFile);
}

/** Finishes what was begun and not brought to its end; true when there was such a thing. */
export function finishMoves(listFile: string): boolean {
  const text = readTextFile(listFile);
  if (text === undefined) return false;
  const list = v.safeParse(List, text);
  if (!list.success) {
    throw new MeshError("storage_failed", `${listFile} is no list of moves`, {
      hint: "It was not written by claudemesh. Move it aside, and see that outbox.db beside it is the one you want.",
    });
  }
  for (const move of list.output.moves) carryOut(move);
  removeFile(listFile);
  syncDirectory(dirname(listFile));
  return true;
}

/** What is at `to` already was put there by this move: a second time, `from` may be what another move has put there since. */
function carryOut({ from, to }: Move): void {
  try {
    if (isThere(to) || !isThere(from)) return;
    mkdirSync(dirname(to), { recursive: true, mode: 0o700 });
    renameSync(from, to);
    syncDirectory(dirname(to));
    if (dirname(from) !== dirname(to)) syncDirectory(dirname(from));
  } catch (error) {
    throw storageError(`cannot move ${from} to ${to}`, error);
  }
}

/** A link that leads nowhere is there, too. */
const isThere = (path: string): boolean => lstatSync(path, { throwIfNoEntry: false }) !== undefined;
