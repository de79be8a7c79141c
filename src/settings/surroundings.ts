/**
 * Where the daemon was started, as far as it changes a default: in a container, or by a CI service. There nobody else on the
 * machine is meant to reach it, so that it serves the Unix socket only. What a person sets goes before all of this.
 */
import { readFileSync } from "node:fs";
import { fileExists } from "~/disk/file";
import type { KnobName, KnobValue } from "~/settings/knobs";

type Environment = Readonly<Record<string, string | undefined>>;

export interface Surroundings {
  /** What gives the container away: a path, or the name of a variable. */
  container: string | undefined;
  /** The variable by which a CI service says what it is. */
  ci: string | undefined;
}

export interface Probes {
  exists(path: string): boolean;
  /** The text of a file; undefined when it cannot be read. */
  read(path: string): string | undefined;
}

/** https://docs.docker.com, `podman(1)`, and what systemd-detect-virt(1) looks at. */
const containerFiles = ["/.dockerenv", "/run/.containerenv"];
const cgroupFile = "/proc/self/cgroup";
/** As words of a path: `/docker/…`, `docker-….scope`, `kubepods.slice`, `lxc.payload.…`, `cri-containerd-…`, `libpod-…`. */
const containerCgroup = /(^|[/:.-])(docker|containerd|kubepods|lxc|podman|libpod)([/.:-]|$)/m;

const ciVariables = ["CI", "GITHUB_ACTIONS", "GITLAB_CI", "BUILDKITE", "CIRCLECI", "JENKINS_URL"];

export const nowhereSpecial: Surroundings = { container: undefined, ci: undefined };

export function surroundingsOf(env: Environment, probes: Probes = systemProbes): Surroundings {
  return { container: containerOf(env, probes), ci: ciOf(env) };
}

function containerOf(env: Environment, probes: Probes): string | undefined {
  const file = containerFiles.find((path) => probes.exists(path));
  if (file !== undefined) return file;
  if (env.KUBERNETES_SERVICE_HOST) return "KUBERNETES_SERVICE_HOST";
  return containerCgroup.test(probes.read(cgroupFile) ?? "") ? cgroupFile : undefined;
}

/** `CI=false` says that this is none, whatever else is set, as it does to most tools. */
function ciOf(env: Environment): string | undefined {
  if (env.CI !== undefined && isNo(env.CI)) return undefined;
  return ciVariables.find((name) => env[name] !== undefined && env[name] !== "" && !isNo(env[name]));
}

const isNo = (text: string): boolean => /^(false|0|no|off)$/i.test(text);

const systemProbes: Probes = {
  exists: fileExists,
  read(path) {
    try {
      return readFileSync(path, "utf8");
    } catch {
      return undefined; // There is no such file outside Linux, and a sandbox may hide it: then it gives nothing away.
    }
  },
};

/** The defaults that the surroundings change, each with the reason. */
export function surroundingDefaults({
  container,
  ci,
}: Surroundings): ReadonlyMap<KnobName, { value: KnobValue; why: SurroundingWhy }> {
  const why: SurroundingWhy | undefined =
    container !== undefined
      ? { kind: "container", evidence: container }
      : ci !== undefined
        ? { kind: "CI", evidence: ci }
        : undefined;
  return new Map(why === undefined ? [] : [["daemon.tcp", { value: false, why }]]);
}

export interface SurroundingWhy {
  kind: "container" | "CI";
  evidence: string;
}
