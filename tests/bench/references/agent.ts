/** Prompts for a line in its terminal, and tells of each that comes on the Unix socket that it is told. */
const [, , unix = ""] = process.argv;
const prompt = "> ";
const reports = await Bun.connect({ unix, socket: { data: () => undefined } });
process.stdin.on("data", (bytes: Buffer) => {
  reports.write(bytes);
  process.stdout.write(prompt);
});
process.stdout.write(prompt);
