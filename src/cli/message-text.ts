/** The text to send: from the argument, from standard input (`-`) or from a file; exactly one of them, and valid UTF-8. */
import { usageError } from "~/cli/argv";
import { MeshError, systemCodeOf } from "~/errors";
import { ipcBodyBytesMax } from "~/wire/limits";

export interface MessageArguments {
  message: string | undefined;
  file: string | undefined;
}

/** Throws `usage`, `invalid_message` (no UTF-8), `message_too_large`, or `storage_failed` (the file cannot be read). */
export async function readMessageText({ message, file }: MessageArguments): Promise<string> {
  if (message !== undefined && file !== undefined) {
    throw usageError("the message was given twice: as an argument and with --file");
  }
  if (message !== undefined && message !== "-") return message;
  if (message === "-" || file === "-")
    return decodeUtf8(await readAll(Bun.stdin.stream(), "standard input"), "standard input");
  if (file !== undefined) return decodeUtf8(await readFile(file), file);
  throw usageError(
    "there is no message",
    "Give it as an argument, with --file FILE, or - to read standard input.",
  );
}

async function readFile(path: string): Promise<Uint8Array> {
  try {
    return await readAll(Bun.file(path).stream(), path);
  } catch (error) {
    if (error instanceof MeshError) throw error;
    throw new MeshError("storage_failed", `cannot read ${path} (${systemCodeOf(error) ?? String(error)})`, {
      cause: error,
    });
  }
}

/** Stops at the most that a request can hold: what is longer could not be sent anyway. */
async function readAll(stream: ReadableStream<Uint8Array>, name: string): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of stream) {
    length += chunk.length;
    if (length > ipcBodyBytesMax) {
      throw new MeshError(
        "message_too_large",
        `${name} has more than ${ipcBodyBytesMax} bytes, the most a request holds`,
        {
          hint: "Send a reference (a path, a URL) instead of the content.",
        },
      );
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

/** Byte for byte: a byte order mark and the last newline stay. */
function decodeUtf8(bytes: Uint8Array, name: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (error) {
    throw new MeshError(
      "invalid_message",
      `${name} is not valid UTF-8: byte ${firstInvalidByte(bytes)} does not fit`,
      {
        hint: "Convert it (iconv -t utf-8), or encode binary content (base64).",
        cause: error,
      },
    );
  }
}

/** Offset of the first byte of the first ill-formed sequence. */
function firstInvalidByte(bytes: Uint8Array): number {
  let low = 0;
  let high = bytes.length;
  // The longest beginning that a streaming decoder takes without complaint ends just after the byte that breaks it.
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (isAcceptedBeginning(bytes.subarray(0, middle))) low = middle;
    else high = middle - 1;
  }
  const complete = Buffer.byteLength(
    new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes.subarray(0, low), { stream: true }),
  );
  return complete;
}

function isAcceptedBeginning(bytes: Uint8Array): boolean {
  try {
    new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes, { stream: true });
    return true;
  } catch {
    return false;
  }
}
