/** How this host presents itself to the others in its meshes: kept on disk, announced on every connection. */
import * as v from "valibot";
import type { DirectoryStore } from "~/daemon/db/directory";
import type { RequestFrame } from "~/wire/broker";
import { ProfileReply, type ProfileRequest } from "~/wire/ipc";

const initial: ProfileReply = {
  summary: "",
  status: "idle",
  visible: true,
  avatar: "",
  title: "",
  bio: "",
  capabilities: [],
};
const Stored = v.pipe(v.string(), v.parseJson(), ProfileReply);

export class Profile {
  readonly #store: DirectoryStore;
  #current: ProfileReply;

  constructor(store: DirectoryStore) {
    this.#store = store;
    // A garbled one is as good as none.
    const stored = v.safeParse(Stored, store.profile());
    this.#current = stored.success ? stored.output : initial;
  }

  get current(): ProfileReply {
    return this.#current;
  }

  /** Changes what is given and leaves the rest. */
  change(request: ProfileRequest): void {
    const changed = { ...this.#current, ...request };
    this.#store.setProfile(JSON.stringify(changed));
    this.#current = changed;
  }

  /** What tells a broker all of it; nothing of a profile that was never set. */
  frames(): RequestFrame[] {
    const { summary, status, visible, avatar, title, bio, capabilities } = this.#current;
    if (this.#current === initial) return [];
    return [
      { type: "set_visible", visible },
      { type: "set_status", status },
      { type: "set_summary", summary },
      { type: "set_profile", avatar, title, bio, capabilities },
    ];
  }
}
