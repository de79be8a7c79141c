/** Run as a process of its own until it is killed: writes one text and the other in turn to the file that the argument names. */
import { writeFileAtomic } from "~/disk/file";

const [path = ""] = process.argv.slice(2);
for (let turn = 0; ; turn++)
  writeFileAtomic(path, turn % 2 === 0 ? "b".repeat(100_000) : "a".repeat(200_000));
