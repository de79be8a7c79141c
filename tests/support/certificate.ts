/** Certificates for localhost, made by openssl: for its own trust only, of an age that the test chooses. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { tempDir } from "./temp-dir";

export interface Certificate {
  certFile: string;
  keyFile: string;
}

export const hasOpenssl = Bun.which("openssl") !== null;

/** `days`: how long it is valid from now on; -1: it expired a day ago. */
export function makeCertificate(days: number): Certificate {
  const dir = tempDir();
  const [keyFile, request, certFile] = ["key.pem", "request.pem", "cert.pem"].map((name) =>
    join(dir, name),
  ) as [string, string, string];
  const extensions = join(dir, "extensions");
  openssl(["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", keyFile]);
  openssl(["req", "-new", "-key", keyFile, "-subj", "/CN=localhost", "-out", request]);
  writeFileSync(extensions, "subjectAltName=DNS:localhost\n");
  openssl([
    ...["x509", "-req", "-in", request, "-signkey", keyFile, "-days", String(days)],
    ...["-extfile", extensions, "-out", certFile],
  ]);
  return { certFile, keyFile };
}

function openssl(args: string[]): void {
  const { success, stderr } = Bun.spawnSync(["openssl", ...args], { stdout: "ignore", stderr: "pipe" });
  if (!success) throw new Error(`openssl ${args[0]} failed: ${stderr.toString()}`);
}
