/** Between which rows a terminal scrolls (DECSTBM), on each of its two screens, for the emulator does not tell. */
import type { Terminal } from "@xterm/headless";

export interface Region {
  /** The first row and the last one, counted from the top of the screen. */
  top: number;
  bottom: number;
}

export class Margins {
  readonly #terminal: Terminal;
  readonly #regions: Record<"normal" | "alternate", Region>;
  #shown: "normal" | "alternate";

  constructor(terminal: Terminal) {
    this.#terminal = terminal;
    this.#regions = { normal: this.#whole(), alternate: this.#whole() };
    const { parser, buffer } = terminal;
    this.#shown = buffer.active.type;
    parser.registerCsiHandler({ final: "r" }, (params) => {
      const [top, bottom] = regionOf(params, terminal.rows);
      if (bottom > top) this.#regions[this.#shown] = { top, bottom };
      return false;
    });
    parser.registerCsiHandler({ intermediates: "!", final: "p" }, () => {
      this.#regions[this.#shown] = this.#whole();
      return false;
    });
    parser.registerEscHandler({ final: "c" }, () => {
      this.reset();
      return false;
    });
    buffer.onBufferChange(({ type }) => {
      this.#shown = type;
      // Whoever leaves the alternate screen leaves nothing there.
      if (type === "normal") this.#regions.alternate = this.#whole();
    });
  }

  /** Of the screen that is shown. */
  get region(): Region {
    return this.#regions[this.#shown];
  }

  /** After a change of the size. */
  reset(): void {
    this.#regions.normal = this.#whole();
    this.#regions.alternate = this.#whole();
  }

  #whole(): Region {
    return { top: 0, bottom: this.#terminal.rows - 1 };
  }
}

function regionOf(params: readonly (number | number[])[], rows: number): [top: number, bottom: number] {
  const [first, last] = params.map((param) => (typeof param === "number" ? param : 0));
  return [(first || 1) - 1, (!last || last > rows ? rows : last) - 1];
}
