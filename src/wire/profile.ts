/** What a member tells the others of itself. Apart from the frames that carry it, for the local API needs it without them. */
import * as v from "valibot";
import { avatarCharsMax, bioCharsMax, titleCharsMax } from "~/wire/limits";
import { Capabilities, Line } from "~/wire/text";

export const Profile = v.object({
  avatar: v.exactOptional(Line(avatarCharsMax)),
  title: v.exactOptional(Line(titleCharsMax)),
  bio: v.exactOptional(Line(bioCharsMax)),
  capabilities: v.exactOptional(Capabilities),
});
