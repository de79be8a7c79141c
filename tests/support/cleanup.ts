/**
 * What a test opened is closed again, newest first, whether the test passed or not. tests/support/setup.ts loads this file before
 * any test file, which is what makes its hooks hold for all of them.
 */
import { afterAll, afterEach, beforeEach } from "bun:test";

type Task = () => void | Promise<void>;

const testTasks: Task[] = [];
const fileTasks: Task[] = [];
let testIsRunning = false;

beforeEach(() => {
  testIsRunning = true;
});
afterEach(() => {
  testIsRunning = false;
  return runNewestFirst(testTasks);
});
afterAll(() => runNewestFirst(fileTasks));

/**
 * Has `task` run after the test that is running (its own `afterEach` hooks come first) or, when called in `beforeAll` or at the top
 * level of a file, after all tests of the file. Not for `test.concurrent`, whose tests share one ending.
 */
export function cleanup(task: Task): void {
  (testIsRunning ? testTasks : fileTasks).push(task);
}

/** Runs all of them even when one fails, and then fails with what went wrong. */
async function runNewestFirst(tasks: Task[]): Promise<void> {
  const errors: unknown[] = [];
  for (const task of tasks.splice(0).reverse()) {
    try {
      await task();
    } catch (error) {
      errors.push(error);
    }
  }
  if (errors.length > 0) throw new AggregateError(errors, `clean-up failed: ${errors.join("; ")}`);
}
