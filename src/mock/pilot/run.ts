/** `mock pilot` and the replay of what it recorded, from their files to clients on a Unix socket. */
import type { Clock } from "~/clock";
import { PilotMock } from "~/mock/pilot/mock";
import { PilotReplay } from "~/mock/pilot/replay";
import { PilotPlay, usualPlay } from "~/mock/pilot/script";
import { type StreamPlace, serveStreams } from "~/mock/pilot/stream";
import { noRecorder, openRecorder } from "~/mock/recorder";
import { readScript } from "~/mock/script";
import type { Recorded } from "~/wire/mock-recording";

export interface MockPilotRun extends StreamPlace {
  /** Files; undefined: none. */
  script: string | undefined;
  record: string | undefined;
  clock: Clock;
}

/** Serves until `ended`. Throws what `giveSocket`, `readScript` and `openRecorder` do. */
export async function runMockPilot(run: MockPilotRun, ended: AbortSignal): Promise<void> {
  const { clock, log, record } = run;
  const play = run.script === undefined ? usualPlay : playOf(readScript(run.script, "pilot"));
  let recorder = noRecorder;
  const begin = () => {
    if (record !== undefined) recorder = openRecorder(record, "pilot", clock, log);
    const mock = new PilotMock({ clock, play, recorder, log });
    return mock.connect.bind(mock);
  };
  try {
    await serveStreams(run, begin, ended);
  } finally {
    recorder.close();
  }
}

const playOf = ({ script, fault }: ReturnType<typeof readScript<"pilot">>): PilotPlay =>
  new PilotPlay(script, fault);

/** Answers from a recording until `ended`. Throws what `giveSocket` does. */
export async function replayPilot(
  place: StreamPlace,
  entries: readonly Recorded[],
  ended: AbortSignal,
): Promise<void> {
  const replay = new PilotReplay(entries, place.log);
  await serveStreams(place, () => replay.connect.bind(replay), ended);
}
