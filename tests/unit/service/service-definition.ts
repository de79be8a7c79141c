/** Services as tests describe them: alice's, unless said otherwise, with paths that are as unpleasant as a test wants. */
import { defineService, type ServiceChoice, type ServiceDefinition } from "~/service/definition";
import { hostPaths } from "~/wire/paths";

export const alice = { name: "alice", uid: 1001, gid: 1001, home: "/home/alice" };

export interface Wishes extends Partial<Omit<ServiceChoice, "paths">> {
  /** Decides about the directories as the environment of a command does. */
  env?: Record<string, string>;
}

export function definitionOf({ env = {}, account = alice, ...wishes }: Wishes = {}): ServiceDefinition {
  return defineService({
    scope: "user",
    executable: "/usr/local/bin/claudemesh",
    ...wishes,
    account,
    env,
    paths: hostPaths({ HOME: account.home, ...env }),
  });
}

/** Everything that means something to systemd, a shell or XML. */
export const nasty = `a b%h$HOME\${X}'q"\\z&<&amp;>ü;#`;
