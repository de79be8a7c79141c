/**
 * Runs a command that may not make Unix sockets, as agent sandboxes do it on Linux: a seccomp filter (seccomp(2)) answers
 * socket(AF_UNIX) with EPERM, for the command and all that it starts. `bun forbid-unix-sockets.ts COMMAND …`
 */
import { dlopen, FFIType, ptr } from "bun:ffi";

const socketCall = { x64: 41, arm64: 198 }[process.arch as string];
if (process.platform !== "linux" || socketCall === undefined)
  throw new Error("this is for Linux on x64 and arm64");

const EPERM = 1;
const AF_UNIX = 1;
const returnErrno = 0x0005_0000;
const returnAllow = 0x7fff_0000;
/** Classic BPF over `struct seccomp_data`: the call's number is at 0, its first argument at 16. */
const program: [code: number, ifTrue: number, ifFalse: number, operand: number][] = [
  [0x20, 0, 0, 0],
  [0x15, 0, 3, socketCall],
  [0x20, 0, 0, 16],
  [0x15, 0, 1, AF_UNIX],
  [0x06, 0, 0, returnErrno | EPERM],
  [0x06, 0, 0, returnAllow],
];
const instructions = new Uint8Array(program.length * 8);
const view = new DataView(instructions.buffer);
for (const [index, [code, ifTrue, ifFalse, operand]] of program.entries()) {
  view.setUint16(index * 8, code, true);
  view.setUint8(index * 8 + 2, ifTrue);
  view.setUint8(index * 8 + 3, ifFalse);
  view.setUint32(index * 8 + 4, operand, true);
}
const filter = new Uint8Array(16);
new DataView(filter.buffer).setUint16(0, program.length, true);
new DataView(filter.buffer).setBigUint64(8, BigInt(ptr(instructions)), true);

const { u64, i32 } = FFIType;
const openLibc = () => {
  const declared = { prctl: { args: [i32, u64, u64, u64, u64], returns: i32 } } as const;
  try {
    return dlopen("libc.so.6", declared);
  } catch {
    return dlopen("libc.so", declared); // musl
  }
};
const { symbols } = openLibc();
const PR_SET_NO_NEW_PRIVS = 38;
const PR_SET_SECCOMP = 22;
const SECCOMP_MODE_FILTER = 2;
if (
  symbols.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) !== 0 ||
  symbols.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ptr(filter), 0, 0) !== 0
) {
  // Nothing else ends with this status: the tests tell by it that there is nothing to be tested here.
  process.exit(113);
}
const child = Bun.spawn(process.argv.slice(2), { stdin: "inherit", stdout: "inherit", stderr: "inherit" });
process.on("SIGTERM", () => child.kill("SIGTERM"));
process.exit(await child.exited);
