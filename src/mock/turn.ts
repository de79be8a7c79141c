/**
 * What a script says may happen, counted down as it is played. The rules and the pushes of one mock and the rules and the events of
 * the other are all such turns.
 */

export interface Turn<Request> {
  delayMs: number;
  fits(request: Request): boolean;
  /** How often it still applies. */
  left: number;
}

/** As a script writes it. */
interface Written {
  times?: number;
  delay_ms?: number;
}

export const turnOf = <Request>(
  { times = Number.POSITIVE_INFINITY, delay_ms = 0 }: Written,
  fits: (request: Request) => boolean,
): Turn<Request> => ({ delayMs: delay_ms, fits, left: times });

/** Whether it applies to this request; then it does so once less. */
export function take<Request>(turn: Turn<Request>, request: Request): boolean {
  if (turn.left === 0 || !turn.fits(request)) return false;
  turn.left--;
  return true;
}
