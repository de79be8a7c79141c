/** What a command sees of the world, with directories of its own, and what it printed. */
import { join } from "node:path";
import type { Host } from "~/cli/command";
import { type Output, OutputClosed } from "~/cli/output";
import { hostPaths } from "~/wire/paths";
import { tempDir } from "../../support/temp-dir";

export interface CapturedHost extends Host {
  /** Where the daemon of this host would listen. */
  socketPath: string;
  /** Text answers, or the values with `json`. */
  answers: unknown[];
  notes: string[];
  interrupt(): void;
}

export interface CaptureOptions {
  json?: boolean;
  env?: Record<string, string>;
  /** The reader goes away when this many answers were printed. */
  answersMax?: number;
}

export function capturedHost({
  json = false,
  env = {},
  answersMax = Number.POSITIVE_INFINITY,
}: CaptureOptions = {}): CapturedHost {
  const dir = tempDir();
  const answers: unknown[] = [];
  const notes: string[] = [];
  const controller = new AbortController();
  const out: Output = {
    json,
    answer: async (value, text) => {
      if (answers.length >= answersMax) throw new OutputClosed("closed");
      answers.push(json ? value : text());
    },
    note: async (text) => void notes.push(text),
    text: async (text) => void answers.push(text),
  };
  const fullEnv = { CLAUDEMESH_CONFIG_DIR: dir, ...env };
  const paths = hostPaths(fullEnv);
  return {
    env: fullEnv,
    paths,
    out,
    interrupted: controller.signal,
    ended: controller.signal,
    socketPath: join(dir, "daemon", "daemon.sock"),
    answers,
    notes,
    interrupt: () => controller.abort(),
  };
}
