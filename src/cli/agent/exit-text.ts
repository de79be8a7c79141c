/** How an agent has ended, for people; empty where that is not known. */
export function exitText(code: number | null, signal: string | null): string {
  if (code !== null) return `exit status ${code}`;
  return signal ?? "";
}
