/** Run as a process of its own: adds some meshes to a configuration file, one after the other. Arguments: file, prefix, count. */
import { updateConfig, withMesh } from "~/identity/config";
import { generateKeyPair } from "~/identity/keys";

const [path = "", prefix = "", count = "0"] = process.argv.slice(2);

for (let nth = 0; nth < Number(count); nth++) {
  const { publicKey, secretKey } = generateKeyPair();
  updateConfig(path, (config) =>
    withMesh(config, {
      meshId: `${prefix}-${nth}`,
      memberId: "m",
      slug: `${prefix}-${nth}`,
      name: "n",
      pubkey: publicKey,
      secretKey,
      brokerUrl: "ws://127.0.0.1:7900/ws",
      joinedAt: "",
    }),
  );
}
