/** Which descriptors a shim can be driven over. */
import { afterAll, describe, expect, test } from "bun:test";
import { closeSync, openSync } from "node:fs";
import { checkInheritedSocket } from "~/agent/inherited-socket";
import { openLibc } from "~/agent/libc";
import { MeshError } from "~/errors";

const libc = openLibc({
  socket: { args: ["i32", "i32", "i32"], returns: "i32" },
  socketpair: { args: ["i32", "i32", "i32", "ptr"], returns: "i32" },
  pipe: { args: ["ptr"], returns: "i32" },
});
if ("unavailable" in libc) throw new Error(libc.unavailable);

const [unix, stream, datagram] = [1, 1, 2];
const opened: number[] = [];
afterAll(() => {
  for (const fd of opened) closeSync(fd);
});

function one(fd: number): number {
  expect(fd).toBeGreaterThan(2);
  opened.push(fd);
  return fd;
}

function pair(make: (both: Int32Array) => number): [number, number] {
  const both = new Int32Array(2);
  expect(make(both)).toBe(0);
  const [first = -1, second = -1] = both;
  opened.push(first, second);
  return [first, second];
}

function faultOf(fd: number): string {
  try {
    checkInheritedSocket(fd);
    return "none";
  } catch (error) {
    if (!(error instanceof MeshError)) throw error;
    expect([error.code, error.hint]).toEqual(["usage", expect.any(String)]);
    return error.message;
  }
}

describe("a descriptor", () => {
  test("of a socket pair is fine, also when the other end is closed already", () => {
    const [first, second] = pair((both) => libc.socketpair(unix, stream, 0, both));
    expect([faultOf(first), faultOf(second)]).toEqual(["none", "none"]);
    const [alone, other] = pair((both) => libc.socketpair(unix, stream, 0, both));
    closeSync(other);
    opened.splice(opened.indexOf(other), 1);
    expect(faultOf(alone)).toBe("none");
  });

  const others: [what: string, fd: () => number, fault: string][] = [
    ["that is not open", () => 999_999, "no such descriptor"],
    ["of a file", () => one(openSync("/dev/null", "r")), "not a socket"],
    ["of a pipe", () => pair((both) => libc.pipe(both))[0], "not a socket"],
    ["of a socket that is not connected", () => one(libc.socket(unix, stream, 0)), "connected to nobody"],
    [
      "of a socket for datagrams",
      () => pair((both) => libc.socketpair(unix, datagram, 0, both))[0],
      "stream",
    ],
  ];
  test.each(others)("%s is refused", (_, fd, fault) => {
    expect(faultOf(fd())).toContain(fault);
  });
});
