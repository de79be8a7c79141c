/**
 * What was wrong with something that was read, in words that quote nothing of it: these words end up in logs, and what was
 * read may have been a key, a token or a message.
 */
import * as v from "valibot";
import { MeshError, messageOf, systemCodeOf } from "~/errors";
import { explainIssues } from "~/wire/text";

const framesMax = 20;

/** What JSON.parse found wrong, without the word that it stumbled over, which the runtime puts in quotes; single signs may stay. */
export const jsonFault = (error: unknown): string =>
  messageOf(error)
    .replace(/^JSON Parse error: /, "")
    .replace(/\s*["`][\s\S]*$/, "")
    .replace(/'[^']{2,}'/g, "")
    .trim();

/** Any thrown value for a log. */
export function faultOf(thrown: unknown): string {
  // A mistake of ours repeats what it was made from.
  if (thrown instanceof MeshError && thrown.code === "internal" && thrown.cause !== undefined)
    return faultOf(thrown.cause);
  if (v.isValiError(thrown)) return explainIssues(thrown.issues);
  return thrown instanceof SyntaxError ? jsonFault(thrown) : messageOf(thrown);
}

/** Where it was thrown. The stack begins with the message, which may be of several lines: what it says is left out. */
export function framesOf(thrown: unknown): string[] {
  if (!(thrown instanceof Error)) return [];
  const { stack = "", message } = thrown;
  const end = message === "" ? 0 : stack.indexOf(message) + message.length;
  const frames = stack
    .slice(end)
    .split("\n")
    .map((line) => line.trim());
  return frames.filter((line) => line.startsWith("at ")).slice(0, framesMax);
}

/** An error with its causes and where each was thrown, for whoever looks for a mistake. */
export function traceOf(thrown: unknown): string {
  const lines: string[] = [];
  for (let at: unknown = thrown; at !== undefined && lines.length < framesMax * 3; ) {
    const name = at instanceof Error ? at.name : typeof at;
    const code = systemCodeOf(at);
    lines.push(`${name}${code === undefined ? "" : ` (${code})`}: ${faultOf(at)}`);
    lines.push(...framesOf(at).map((frame) => `    ${frame}`));
    at = at instanceof Error ? at.cause : undefined;
  }
  return lines.join("\n");
}

/** A URL as it may be shown: credentials, query and fragment may be secrets. */
export function shownUrl(url: string): string {
  if (!URL.canParse(url)) return "(an invalid URL)";
  const { protocol, host, pathname } = new URL(url);
  return `${protocol}//${host}${pathname}`;
}
