/** Whether these files still are on the host that they belong to, as the next start of the daemon will see it. */
import { type Finding, fail, pass, warn } from "~/cli/doctor/finding";
import { MeshError } from "~/errors";
import { type HostJudgement, type HostPolicy, judgeHost, readHostRecord } from "~/identity/host";
import { readHostFacts } from "~/identity/host-sources";

export type HostFacts =
  | { kind: "judged"; judgement: HostJudgement }
  | { kind: "unreadable"; error: MeshError };

export async function gatherHost(recordFile: string, policy: HostPolicy): Promise<HostFacts> {
  try {
    return { kind: "judged", judgement: judgeHost(readHostRecord(recordFile), readHostFacts(), policy) };
  } catch (error) {
    if (!(error instanceof MeshError)) throw error;
    return { kind: "unreadable", error };
  }
}

export function judgeHostIdentity(facts: HostFacts): Finding[] {
  if (facts.kind === "unreadable") return [fail("host", facts.error.message, facts.error.hint)];
  const { judgement } = facts;
  if (judgement.kind === "refused") return [fail("host", judgement.error.message, judgement.error.hint)];
  const problems = "problems" in judgement ? judgement.problems : [];
  if (problems.length > 0) return problems.map(({ message, hint }) => warn("host", message, hint));
  return [
    judgement.kind === "first"
      ? pass("host", "this host is not recorded yet; the first start of the daemon does that")
      : pass("host", "these files belong to this host"),
  ];
}
