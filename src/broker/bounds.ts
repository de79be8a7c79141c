/** The limits (wire/limits.ts) that the broker's decisions depend on, as one value, so that a test can make them small. */
import * as limits from "~/wire/limits";

export const defaultBounds = {
  inlineBytes: limits.inlineBytesDefault,
  membersPerMeshMax: limits.membersPerMeshMax,
  meshesPerBrokerMax: limits.meshesPerBrokerMax,
  openInvitesPerMeshMax: limits.openInvitesPerMeshMax,
  inviteDaysMax: limits.inviteDaysMax,
  connectionsPerBrokerMax: limits.connectionsPerBrokerMax,
  sendOnlyPerMemberMax: limits.sendOnlyPerMemberMax,
  concurrentPerMemberMax: limits.concurrentPerMemberMax,
  hellosRememberedPerMemberMax: limits.hellosRememberedPerMemberMax,
  helloTimeoutMs: limits.helloTimeoutMs,
  queuedPerRecipientMax: limits.queuedPerRecipientMax,
  queueFullRetryAfterMs: limits.queueFullRetryAfterMs,
  rateWindowMs: limits.rateWindowMs,
  sendsPerRateWindowMax: limits.sendsPerRateWindowMax,
  lanesHeldPerConnectionMax: limits.lanesHeldPerConnectionMax,
  leaseMs: limits.leaseMs,
  leasesPerConnectionMax: limits.leasesPerConnectionMax,
  leaseBytesPerConnectionMax: limits.leaseBytesPerConnectionMax,
  framesWaitingPerConnectionMax: limits.framesWaitingPerConnectionMax,
  frameBytesWaitingPerConnectionMax: limits.frameBytesWaitingPerConnectionMax,
  socketBacklogBytesMax: limits.socketBacklogBytesMax,
  upkeepEveryMs: limits.upkeepEveryMs,
  upkeepPauseMs: limits.upkeepPauseMs,
  upkeepWrittenRowsMax: limits.upkeepWrittenRowsMax,
  upkeepReadRowsMax: limits.upkeepReadRowsMax,
  pingEveryMs: limits.pingEveryMs,
  silenceMsMax: limits.silenceMsMax,
};

export type Bounds = Readonly<Record<keyof typeof defaultBounds, number>>;
