import { defineCommand } from "~/cli/command";
import { passphraseArgs, passphraseNotes, readPassphrase } from "~/cli/passphrase";
import { byteCount, printableLine } from "~/cli/text";
import { systemClock } from "~/clock";

export const daemonBackup = defineCommand({
  name: "daemon backup",
  description: "write keys, settings and messages to a file that a passphrase opens",
  args: {
    file: { type: "positional", required: true, completes: "file", description: "where to write it" },
    force: { type: "boolean", description: "replace the file if there is one" },
    ...passphraseArgs,
  },
  notes: `Works whether or not the daemon runs. The file holds config.json with the keys, config.toml, and the messages, sealed: without the passphrase nobody can read it, not even you. ${passphraseNotes}`,
  exits: [4, 5, 6, 130],
  examples: [
    "claudemesh daemon backup ~/claudemesh.backup",
    "claudemesh daemon backup /mnt/usb/alice.backup --force --passphrase-file ~/.backup-passphrase",
  ],
  async run({ file, force, "passphrase-file": passphraseFile }, host) {
    const passphrase = await readPassphrase({ file: passphraseFile, isNew: true }, host);
    const { backUp } = await import("~/daemon/recover");
    const made = await backUp({
      paths: host.paths,
      file,
      passphrase,
      force,
      nowMs: systemClock.now(),
      signal: host.interrupted,
    });
    await host.out.answer(made, () =>
      [
        `${printableLine(made.file)}: ${byteCount(made.bytes)}`,
        ...made.contents.map(({ name, bytes }) => `  ${name}: ${byteCount(bytes)}`),
      ].join("\n"),
    );
  },
});
