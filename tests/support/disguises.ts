/** Looking for secrets where none should be, in whatever form they may stand there. */
import { readdirSync } from "node:fs";
import { join } from "node:path";

/** Every file below a directory. */
export function filesBelow(dir: string): string[] {
  return readdirSync(dir, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
}

/** All the ways in which a text may stand somewhere: as it is, as JSON, base64 and base64url at any offset, hex. */
export function disguises(secret: string): RegExp {
  const bytes = Buffer.from(secret);
  const base64 = [0, 1, 2].map((offset) => {
    const shifted = Buffer.concat([Buffer.alloc(offset), bytes]).toString("base64");
    return shifted.slice(offset === 0 ? 0 : 4, -4);
  });
  const base64url = base64.map((text) => text.replaceAll("+", "-").replaceAll("/", "_"));
  const json = JSON.stringify(secret).slice(1, -1);
  const ascii = json.replace(
    /[\u0080-\uffff]/g,
    (sign) => `\\u${sign.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
  const forms = [
    ...[secret, json, ascii, encodeURIComponent(secret), bytes.toString("hex")],
    // Inside a text that is JSON inside a text.
    ...[JSON.stringify(json).slice(1, -1), ...base64, ...base64url],
  ];
  return new RegExp(forms.map((form) => form.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&")).join("|"), "i");
}
