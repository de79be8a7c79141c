/** What the doctor says of one thing: how it is, in a sentence, and what to type where it is not well. */

export type FindingStatus = "pass" | "warn" | "fail";

export interface Finding {
  /** What was looked at, in a word. */
  check: string;
  status: FindingStatus;
  message: string;
  /** The command that mends it, or what a person has to do where no command can. */
  fix?: string;
}

export const pass = (check: string, message: string): Finding => ({ check, status: "pass", message });

export const warn = (check: string, message: string, fix?: string): Finding =>
  finding("warn", check, message, fix);

export const fail = (check: string, message: string, fix?: string): Finding =>
  finding("fail", check, message, fix);

const finding = (
  status: FindingStatus,
  check: string,
  message: string,
  fix: string | undefined,
): Finding => ({ check, status, message, ...(fix === undefined ? {} : { fix }) });
