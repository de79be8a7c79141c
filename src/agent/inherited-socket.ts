/** Whether a descriptor that was named on the command line is what a shim can be driven over: a connected stream socket. */
import { fstatSync } from "node:fs";
import { openLibc } from "~/agent/libc";
import { MeshError, messageOf, systemCodeOf } from "~/errors";

/** SOL_SOCKET and SO_TYPE of sys/socket.h. */
const [socketLevel, typeOption] = process.platform === "darwin" ? [0xffff, 0x1008] : [1, 3];
const streamType = 1;
/** As long as any address is. */
const addressBytes = 128;

/** Throws `usage` when it is not. */
export function checkInheritedSocket(fd: number): void {
  const fault = faultOf(fd);
  if (fault === undefined) return;
  throw new MeshError("usage", `--fd ${fd}: ${fault}`, {
    hint: "The orchestrator passes one end of a socket pair on, and names its number here.",
  });
}

function faultOf(fd: number): string | undefined {
  try {
    if (!fstatSync(fd).isSocket()) return "it is not a socket";
  } catch (error) {
    return `there is no such descriptor (${systemCodeOf(error) ?? messageOf(error)})`;
  }
  const libc = openLibc({
    getsockopt: { args: ["i32", "i32", "i32", "ptr", "ptr"], returns: "i32" },
    getpeername: { args: ["i32", "ptr", "ptr"], returns: "i32" },
  });
  // Then it is seen by what comes of it.
  if ("unavailable" in libc) return undefined;
  const type = new Int32Array(1);
  const typeBytes = Uint32Array.of(type.byteLength);
  if (libc.getsockopt(fd, socketLevel, typeOption, type, typeBytes) === 0 && type[0] !== streamType) {
    return "it is not a stream socket";
  }
  const peer = new Uint8Array(addressBytes);
  if (libc.getpeername(fd, peer, Uint32Array.of(addressBytes)) !== 0) return "it is connected to nobody";
  return undefined;
}
