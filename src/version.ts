/** What this binary is: set by build.ts at compile time, `dev` when run from source. */

declare const BUILD_VERSION: string | undefined;
declare const BUILD_COMMIT: string | undefined;

export const version = typeof BUILD_VERSION === "string" ? BUILD_VERSION : "0.0.0-dev";
export const commit = typeof BUILD_COMMIT === "string" ? BUILD_COMMIT : "source";
