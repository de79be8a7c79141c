/** One step of retention: rows are taken one by one until enough were, or until the step has lasted long enough for the others. */

export interface Pruned {
  count: number;
  /** The step ended before the rows that are due did. */
  isMore: boolean;
}

/** Clears the rows in `due`, which were looked up with `limit`. The first one is always cleared, so that every step gets on. */
export function pruneEach(
  due: readonly { seq: number }[],
  clear: (seq: number) => void,
  limit: number,
  isOver: () => boolean,
): Pruned {
  let count = 0;
  for (const { seq } of due) {
    if (count > 0 && isOver()) return { count, isMore: true };
    clear(seq);
    count++;
  }
  return { count, isMore: count === limit };
}
