const pollIntervalMs = 10;

export interface WaitOptions {
  /** What is being waited for, for the error: "the daemon to answer". */
  what: string;
  timeoutMs?: number;
}

/**
 * Polls `condition` until it returns something truthy, and returns that. A condition that throws is asked again; when time runs
 * out its last error is the cause of ours.
 */
export async function waitFor<T>(
  condition: () => T | Promise<T>,
  { what, timeoutMs = 10_000 }: WaitOptions,
): Promise<NonNullable<T>> {
  const deadline = performance.now() + timeoutMs;
  let lastError: unknown;
  for (;;) {
    try {
      const result = await condition();
      lastError = undefined;
      if (result) return result;
    } catch (error) {
      lastError = error;
    }
    if (performance.now() >= deadline) break;
    await Bun.sleep(pollIntervalMs); // poll
  }
  const because = lastError === undefined ? "" : `: ${lastError}`;
  throw new Error(`waited ${timeoutMs} ms in vain for ${what}${because}`, { cause: lastError });
}
