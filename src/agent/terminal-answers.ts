/** What terminals send by themselves, told from what a person types: of several terminals that show one agent, only one is to answer. */

/**
 * Whether this is nothing but what terminals send by themselves when they are asked: attributes, cursor, modes, sizes, colours.
 * F3 with a modifier looks like a cursor's place.
 */
const answers = new RegExp(
  [
    String.raw`^(?:\x1b\[[?>]?[\d;]*(?:[cRnt]|\$y)`,
    String.raw`\x1b\[\?\d+u`,
    String.raw`\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)`,
    String.raw`\x1b[P_][^\x1b]*\x1b\\)+$`,
  ].join("|"),
);

export const isTerminalAnswer = (bytes: Uint8Array): boolean =>
  bytes[0] === 0x1b && answers.test(Buffer.from(bytes).toString("latin1"));

// biome-ignore lint/suspicious/noControlCharactersInRegex: escape sequences begin with one
const focus = /^(?:\x1b\[[IO])+$/;

/** That the window has got the focus, or lost it. */
export const isFocusReport = (bytes: Uint8Array): boolean =>
  bytes[0] === 0x1b && focus.test(Buffer.from(bytes).toString("latin1"));
