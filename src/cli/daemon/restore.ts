import { defineCommand } from "~/cli/command";
import { passphraseArgs, passphraseNotes, readPassphrase } from "~/cli/passphrase";
import { byteCount, localTime, printableLine } from "~/cli/text";
import { systemClock } from "~/clock";

export const daemonRestore = defineCommand({
  name: "daemon restore",
  description: "put back what daemon backup wrote",
  args: {
    file: { type: "positional", required: true, completes: "file", description: "the backup" },
    replace: { type: "boolean", description: "move what is here aside; nothing is removed" },
    ...passphraseArgs,
  },
  notes: `The daemon must be down. All of the backup is put back, or nothing. This host becomes the one that the files belong to: the host that the backup was made on must not run with them any more. What was sent since the backup was made is not known here: waiting messages that have gone out since go out again (the broker takes none twice, as long as it remembers), and ids that were used since are not known as used. ${passphraseNotes}`,
  exits: [4, 6, 130],
  examples: [
    "claudemesh daemon restore ~/claudemesh.backup",
    "claudemesh daemon restore ~/claudemesh.backup --replace --passphrase-file ~/.backup-passphrase",
  ],
  async run({ file, replace, "passphrase-file": passphraseFile }, host) {
    const passphrase = await readPassphrase({ file: passphraseFile, isNew: false }, host);
    const { restore } = await import("~/daemon/recover");
    const restored = await restore({
      paths: host.paths,
      file,
      passphrase,
      replace,
      nowMs: systemClock.now(),
      signal: host.interrupted,
    });
    await host.out.answer(restored, () =>
      [
        `restored as of ${localTime(restored.made_at)}`,
        ...restored.contents.map(({ name, bytes }) => `  ${name}: ${byteCount(bytes)}`),
        ...restored.moved_aside.map((path) => `moved aside: ${printableLine(path)}`),
      ].join("\n"),
    );
    await host.out.note(
      "This host is now the one that these files belong to; the one they came from must not run with them any more.\nWhat was sent since then is not known here. Start the daemon: claudemesh daemon up",
    );
  },
});
