/** What a recording may not hold: headers that carry secrets, and the token wherever it stands. */

const secretHeaders = ["authorization", "proxy-authorization", "cookie", "set-cookie"];
const mark = "[token]";

export class Redaction {
  readonly #token: string;

  constructor(token: string) {
    this.#token = token;
  }

  /** Also what is given as a token where none belongs. */
  text(text: string): string {
    return text
      .replaceAll(this.#token, mark)
      .replace(/([?&])([^=&#]*)=([^&#]*)/g, (all: string, separator: string, name: string) =>
        new URLSearchParams(name).has("token") ? `${separator}${name}=${mark}` : all,
      );
  }

  headers(headers: Readonly<Record<string, string>>): Record<string, string> {
    return Object.fromEntries(
      Object.entries(headers).flatMap(([name, value]) =>
        secretHeaders.includes(name.toLowerCase()) ? [] : [[name, this.text(value)]],
      ),
    );
  }

  /** Of the same length, as the headers say it. */
  bytes(bytes: Uint8Array): Uint8Array {
    const token = Buffer.from(this.#token);
    let redacted: Buffer | undefined;
    const given = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    for (let at = given.indexOf(token); at >= 0; at = given.indexOf(token, at + token.length)) {
      redacted ??= Buffer.from(given);
      redacted.fill("*", at, at + token.length);
    }
    return redacted ?? bytes;
  }
}
