/** Sends back what comes, on the Unix socket that it is told. */
const [, , unix = ""] = process.argv;
Bun.listen({ unix, socket: { data: (socket, bytes) => void socket.write(bytes) } });
