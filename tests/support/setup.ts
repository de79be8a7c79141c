/**
 * Runs before every test file (bunfig.toml). Tests see the machine of an ordinary user: variables that a CI service sets
 * change defaults, and those of a claudemesh that is in use here would lead a test to its data.
 */
import { setDefaultTimeout } from "bun:test";
import "./cleanup";

/** For tests that start processes on a busy machine. A test that wants to be held to less says so. */
setDefaultTimeout(30_000);

for (const name of Object.keys(process.env)) {
  if (
    /^(CI$|CONTINUOUS_INTEGRATION$|GITHUB_|GITLAB_|BUILDKITE|CIRCLECI|JENKINS_|CLAUDEMESH_(?!BIN$))/.test(
      name,
    )
  )
    delete process.env[name];
}
