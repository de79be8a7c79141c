/** `GET /v1/metrics`: what makes the text is loaded when somebody asks for the first time. */
import type { Answer } from "~/daemon/ipc/server";
import type { DaemonParts } from "~/daemon/parts";

export const getMetrics = (parts: DaemonParts) => async (): Promise<Answer<"metrics">> => {
  const { answerMetrics } = await import("~/daemon/metrics");
  return await answerMetrics(parts);
};
