/** Runs the command that it is told in a terminal that nobody looks at, and types what comes on the socket that it inherits as 3. */
const [, , ...command] = process.argv;
const { terminal } = Bun.spawn(command, { terminal: { rows: 50, cols: 220, data: () => undefined } });
await Bun.connect({
  fd: 3,
  socket: {
    data: (_, bytes) => void terminal?.write(bytes),
    end: () => process.exit(),
    close: () => process.exit(),
  },
});
