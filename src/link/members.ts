/** The members of a mesh as its broker lists them, page by page. */
import { MeshError } from "~/errors";
import type { BrokerFrame, MemberEntry, RequestFrame } from "~/wire/broker";
import { membersPerMeshMax } from "~/wire/limits";

/** Throws `bad_gateway` when the broker answers with something else or without end, and what `request` throws. */
export async function fetchMembers(
  request: (frame: RequestFrame) => Promise<BrokerFrame>,
): Promise<MemberEntry[]> {
  const members: MemberEntry[] = [];
  let after: string | undefined;
  do {
    const page = await request({ type: "list_members", ...(after === undefined ? {} : { after }) });
    if (page.type !== "members_list") throw notMembers("with something else");
    members.push(...page.members);
    if (members.length > membersPerMeshMax) throw notMembers(`with more than ${membersPerMeshMax} of them`);
    after = page.members.length === 0 ? undefined : page.next;
  } while (after !== undefined);
  return members;
}

const notMembers = (how: string): MeshError =>
  new MeshError("bad_gateway", `the broker answered a question for members ${how}`);
