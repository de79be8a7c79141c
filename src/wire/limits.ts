/**
 * Every bound in the project, with its unit in its name. A bound that is reached is always answered with an error that
 * names it; nothing grows without one.
 */

// Messages
/** Sealed content (ciphertext with its tag, before base64) that a broker takes by default. */
export const inlineBytesDefault = 64 * 1024;
export const clientMessageIdCharsMax = 128;
export const metaBytesMax = 16 * 1024;
export const metaDepthMax = 16;

// Frames between daemon and broker
export const frameBytesMax = 1024 * 1024;
/** Sealed content that a frame has room for: in base64, beside the frame's other fields. */
export const sealedBytesPerFrameMax = Math.floor((frameBytesMax - 4096) / 4) * 3;
/** RFC 6455 §5.5: a close frame's payload is 125 bytes, 2 of which are the status. */
export const closeReasonBytesMax = 123;
/** The entries of one page of `members_list`, and of a `peers_list`: less than a frame, by its other fields and commas. */
export const listBytesMax = frameBytesMax - 64 * 1024;
export const helloSkewMsMax = 60_000;
export const helloTimeoutMs = 10_000;
export const pingEveryMs = 30_000;
export const silenceMsMax = 75_000;
export const attestationMsMax = 24 * 3600 * 1000;

// Names in the mesh
export const nameCharsMax = 64;
export const slugCharsMax = 64;
export const topicCharsMax = 128;
export const summaryCharsMax = 500;
export const titleCharsMax = 100;
export const bioCharsMax = 2000;
export const avatarCharsMax = 500;
export const capabilityCharsMax = 64;
export const capabilitiesMax = 32;
export const groupsMax = 32;
export const pathCharsMax = 4096;

// Broker
export const brokerPortDefault = 7900;
export const membersPerMeshMax = 1000;
export const meshesPerBrokerMax = 1000;
export const openInvitesPerMeshMax = 1000;
export const inviteUsesMax = 10_000;
export const inviteDaysMax = 365;
export const connectionsPerBrokerMax = 4096;
/** Connections of one member that only send; each is short-lived. */
export const sendOnlyPerMemberMax = 64;
/** Full connections of one member at a time, where the broker allows more than one. */
export const concurrentPerMemberMax = 16;
/** Signatures of one member's hellos that are remembered against replay, each for twice the allowed skew. */
export const hellosRememberedPerMemberMax = 20_000;
export const queuedPerRecipientMax = 100_000;
/** What a sender is told to wait when the recipient's queue is full. */
export const queueFullRetryAfterMs = 30_000;
export const rateWindowMs = 10_000;
export const sendsPerRateWindowMax = 50_000;
/** Lanes of one connection that wait for a refused id to come again; more than a mesh has members. */
export const lanesHeldPerConnectionMax = 1024;
export const leaseMs = 30_000;
export const leasesPerConnectionMax = 256;
export const leaseBytesPerConnectionMax = 8 * 1024 * 1024;
/** Frames of one connection that wait for the broker's next commit. */
export const framesWaitingPerConnectionMax = 1024;
export const frameBytesWaitingPerConnectionMax = 4 * 1024 * 1024;
/** How often a broker prunes what is old and checks what it keeps. */
export const upkeepEveryMs = 24 * 3600 * 1000;
/** Between two steps of it; longer after a step that was slow. */
export const upkeepPauseMs = 50;
export const upkeepWrittenRowsMax = 64;
/** A step of the daemon's upkeep ends with the row after which it has lasted this long. */
export const upkeepStepMsMax = 2;
export const upkeepReadRowsMax = 500;
/**
 * A wall clock that moved further than the steady one since the last upkeep is not believed: forgetting ids too early lets a
 * message through twice, forgetting them a day later costs some space.
 */
export const brokerClockJumpMsMax = 3_600_000;
export const historyDaysDefault = 30;
/** The longest that a broker can be told to keep something for a time. */
export const retentionDaysMax = 36_500;
export const httpBodyBytesMax = 64 * 1024;
/** How long requests that are being answered may take when the broker stops. */
export const httpStopGraceMs = 2_000;
export const socketBacklogBytesMax = 16 * 1024 * 1024;

// Daemon: local API
export const ipcBodyBytesMax = 1024 * 1024;
export const ipcBodyMsMax = 10_000;
export const ipcRequestsAtWorkMax = 64;
export const ipcRequestsWaitingMax = 256;
export const ipcStreamsMax = 32;
export const streamBufferBytesMax = 4 * 1024 * 1024;
export const streamStallMs = 30_000;
export const streamPageMessages = 100;
export const streamCommentEveryMs = 15_000;
export const ipcPageDefault = 50;
export const ipcPageMax = 500;
export const requeueChainMax = 100;
export const waitMsDefault = 30_000;
export const waitMsMax = 10 * 60_000;
export const tcpPortDefault = 47_823;
export const directoryWaitMs = 2_000;
export const directoryRefreshDelayMs = 100;
export const directoryRetryMs = 5_000;
export const configCheckEveryMs = 30_000;
export const configSettleMs = 100;
/** How often a daemon looks whether its directory is still its own, where nothing tells it sooner. */
export const homeCheckEveryMs = 30_000;
/** A file that was to take the place of another, and has not for so long, was left by a process that was killed. */
export const halfWrittenMs = 60_000;
/** What is being replaced is gone for a moment. */
export const homeSettleMs = 250;
/** How long the lock of a daemon's directory is waited for: others hold it for a moment to see whether anybody does. */
export const lockLookMsMax = 500;
/** How long whoever is behind a socket file may take to show that it is somebody. */
export const staleSocketMsMax = 2_000;
/** The longest that an ephemeral daemon can be told to live: what a timer holds, in whole days. */
export const ttlMsMax = 24 * 24 * 3600 * 1000;
/** How long the brokers may take to be told that an ephemeral daemon leaves; the connection and the answer each. */
export const leaveTimeoutMs = 2_000;
/** A left-over directory without a lock may belong to a daemon that is starting, when it is younger than this. */
export const ephemeralSettleMs = 60_000;
/** One whose lock nobody holds, when the lock is younger than this. */
export const ephemeralLockSettleMs = 2_000;
/** Of config.toml, which has some thirty keys. */
export const settingsFileBytesMax = 64 * 1024;
export const challengeNonceCharsMax = 128;

// Client
/** What a shell waits for the daemon before it completes a word without it. */
export const completionMsMax = 300;
/** How many ids are offered, newest first. */
export const completionIdsMax = 50;

// Doctor
/** All of it, whatever hangs. */
export const doctorMsMax = 9_500;
/** One question to the daemon, a name server, a broker. */
export const doctorProbeMsMax = 2_500;
/** Reading through the databases of a daemon that is down. */
export const doctorDatabaseMsMax = 4_000;
/** What the service manager may take to answer. */
export const doctorServiceMsMax = 4_000;
export const certificateDaysLow = 14;
/** Well before a broker refuses the connection (`helloSkewMsMax`). */
export const clockSkewMsLow = 10_000;
export const freeBytesMin = 16 * 1024 * 1024;
export const freeBytesLow = 256 * 1024 * 1024;
export const freeInodesMin = 100;

// Daemon: delivery
export const sendWindowMessagesMax = 256;
export const sendWindowBytesMax = 1024 * 1024;
/** Rows taken from one lane before the others have their turn. */
export const laneBurstMessagesMax = 32;
/** A lane whose oldest row has waited longer than this is a problem in health. */
export const laneWaitingMsMax = 10 * 60_000;
/** Of the lanes that wait too long, health names those that wait the longest. */
export const lanesInHealthMax = 20;
export const answerTimeoutMs = 15_000;
export const retryDelayMsMin = 500;
/** What the drain waits after a failure of this host's own before it looks again. */
export const drainPauseMs = 500;
export const retryDelayMsMax = 60_000;
export const retryAfterMsMax = 3600 * 1000;
export const unrecognisedAttemptsMax = 20;
export const dedupeRetentionDaysMin = 3;
export const maxAgeHoursPermanent = 7 * 24;
export const reconnectDelaysMs = [1_000, 2_000, 4_000, 8_000, 16_000, 30_000] as const;
/** A connection that lasted this long has proved itself: the pauses before the next attempts begin anew. */
export const linkSettledMs = 30_000;
/** A little longer than a broker keeps a connection that fell silent. */
export const occupiedRetryMs = 90_000;
export const replacedRetryMs = 10 * 60_000;
export const stopGraceMs = 5_000;
export const pushesWaitingMax = 1024;
/** Stored problems that one transaction tries again; a change of keys has all of them tried. */
/** Beyond this the oldest stored problem makes room for the newest. */
export const problemsMax = 10_000;
export const problemRetriesMax = 1000;

/** How long the invite is good that a copy of the owner's host makes for itself. */
export const remintInviteMsMax = 3600 * 1000;
/** What a system's own command may take to name the host. */
export const hostCommandMsMax = 2_000;

// The daemon as a service of launchd or systemd
/** How long one call of systemctl or launchctl may take; stopping a daemon is part of some. */
export const serviceCommandMsMax = 150_000;
export const serviceReadyMsMax = 20_000;
/** Between a failure and the next start. */
export const serviceRestartDelayMs = 15_000;
/** systemd gives up on a daemon that fails so often within `serviceStartsWindowMs`: one that never comes up, after an hour. */
export const serviceStartsMax = 240;
export const serviceStartsWindowMs = 2 * 3600 * 1000;
/** launchd starts a job no more often than this, and never gives up. */
export const serviceThrottleMs = 30_000;
/** A daemon that was told to stop is killed after this; nothing that was accepted is lost by it. */
export const serviceStopMsMax = 90_000;
/** Percent of the host's memory, the programs that the daemon hosts included. */
export const serviceMemoryPercent = { high: 80, max: 90 } as const;
/** The hard one is what systemd gives to every service, so that hosted programs can ask for as much as elsewhere. */
export const serviceOpenFilesMax = { soft: 8_192, hard: 524_288 } as const;

// Logs
export const logFileBytesMax = 10 * 1024 * 1024;
export const logFileDaysMax = 7;
export const logFilesKept = 5;
/** Bytes of log that may wait for a terminal or a pipe to take them, or come while an old file is being made. */
export const logBacklogBytesMax = 1024 * 1024;
/** After an old log file could not be made. */
export const logRotationRetryMs = 60_000;
export const logLinesShownDefault = 100;
export const logLinesShownMax = 100_000;
/** A longer line of a log file is shown cut. */
export const logLineShownCharsMax = 64 * 1024;
export const logCheckEveryMs = 1_000;
/** Old tokens that are still taken at a time, when it is renewed again and again. */
export const formerTokensMax = 8;
export const tokenGraceMs = 60_000;
/** So much is read of what somebody on a port answers who has not proved that he is the daemon. */
export const challengeReplyCharsMax = 4096;

/** Characters of a Unix socket path, the terminating zero not counted: `sun_path` of unix(7) and of macOS's sys/un.h. */
export const socketPathBytesMax = { linux: 107, darwin: 103 } as const;

// Daemon: upkeep
/** How often the daemon looks whether upkeep is due. */
export const upkeepTurnMs = 30 * 60_000;
/** Between two looks, the wall clock may drift this far from the steady one. */
export const clockJumpMsMax = 5 * 60_000;
/** After a jump, and after the start, the wall clock must keep pace for this long before anything is cleared by it. */
export const clockSettledMs = 10 * 60_000;

// Backups
export const passphraseCharsMin = 8;
export const passphraseBytesMax = 4096;
/** Content that is sealed at a time. */
export const vaultChunkBytes = 64 * 1024;
/** The most that a backup's header may ask for, which is read before anybody can tell whether to believe it. */
export const vaultChunkBytesMax = 16 * 1024 * 1024;
export const vaultMemoryKibMax = 512 * 1024;
export const vaultPassesMax = 6;
export const backupManifestBytesMax = 64 * 1024;
export const backupConfigBytesMax = 16 * 1024 * 1024;

/**
 * How often Bun looks after its heap (`BUN_GC_TIMER_INTERVAL` in the environment of a server). By itself it does so every second, which
 * would wake an idle process 86,400 times a day; what is allocated starts a collection all the same.
 */
export const heapCheckEveryMs = 30_000;

// Agent shim
/** The JSON of one frame, its length not counted. */
export const shimFrameBytesMax = 1_048_576;
export const shimMessageIdCharsMax = 1024;
/** How long a peer may leave what was written to it unread. */
export const shimWriteTimeoutMs = 2_000;
/** Messages that wait for an agent that is at work. */
export const shimQueueMax = 16;
/** A start that reaches no prompt by then has failed. */
export const shimStartupMsMax = 120_000;
/** An agent that was given something is not done sooner. */
export const shimWorkingMsMin = 300;
export const shimStatsEveryMs = 10_000;
/** An agent at work that prints nothing for so long is reported as stalled. */
export const shimStalledMs = 300_000;
/** Of the context: from here on usage is warned of. */
export const shimUsagePercentHigh = 80;
/** Lines of the screen that go with a completion or a death. */
export const shimLastLinesMax = 30;
/** What may wait, all orchestrators together being away, for the next one; beyond it the oldest go. */
export const shimEventsKeptMax = 1024;
export const shimEventBytesKeptMax = 4 * 1024 * 1024;
export const shimOrchestratorsMax = 16;
/** The raw output's log; at this size its older half is cut off. */
export const shimLogBytesMax = 50 * 1024 * 1024;

// The terminal of a hosted agent
export const terminalRowsDefault = 50;
export const terminalColsDefault = 220;
/** A larger one would have to be kept in memory, cell by cell. */
export const terminalSideMax = 1000;
/** Lines that are kept beyond the screen. What scrolls away meanwhile is noted down: never more between two looks than are kept. */
export const terminalScrollbackLines = 2048;
export const terminalPortionBytes = 2048;
/** Of a string that is sent to the terminal and not shown: a title, a picture. */
export const terminalStringBytesMax = 64 * 1024;
/** Output that waits to be taken in: at the first the terminal is stopped, at the second it goes on. */
export const terminalWaitingBytesHigh = 512 * 1024;
export const terminalWaitingBytesLow = 128 * 1024;
/** Where the terminal cannot be stopped: taken in at once, whatever else waits. */
export const terminalWaitingBytesMax = 8 * 1024 * 1024;
/** Keys of a person that wait for an agent to read them; beyond the first no more are taken, and beyond the second they are dropped. */
export const typedBytesHigh = 64 * 1024;
export const typedBytesMax = 1024 * 1024;
/** Of a line, where the terminal gives an agent whole lines: MAX_CANON, and on Linux what it keeps, without the newline. */
export const terminalLineBytesMax = { linux: 4095, darwin: 1023 } as const;
/** What a terminal answers by itself and nobody reads; more of it is dropped. */
export const unreadAnswerBytesMax = 4096;
/** Characters of an answer that are kept from its beginning; its end is on the screen. Beyond a frame nothing could be sent. */
export const responseCharsMax = shimFrameBytesMax;
/** Texts that were handed over last, whose echo may still be on the screen. */
export const injectedTextsKept = 32;
/** How long what was printed may take to be on the screen. */
export const screenSettleMsMax = 10_000;
/** How often the screen is looked at while output comes. */
export const screenLookEveryMs = 40;
/** Signs of work that have not moved for so long count for less than a prompt. */
export const workingStaleMs = 6_000;
/** After a text was pasted, and each time after Enter: how long the screen is watched, and how often Enter is pressed. */
export const pasteShownMsMax = 1_000;
/** Without output for so long, an agent has done with a paste that it shows. */
export const pasteQuietMs = 100;
export const submitShownMs = 700;
export const submitsMax = 6;
/** How long one start-up dialog is left alone after it was answered. */
export const dialogPauseMs = 1_000;
export const dialogAnswersMax = 16;
/** How often an agent is looked at that asks what a person has to answer, whether it still does. */
export const questionLookMs = 10_000;
/** How often an agent is looked at into which somebody is typing, whether he still does. */
export const draftLookMs = 1_000;
/** Of a draft that nobody is there to enter: how many lines are deleted, and how long each may take. */
export const draftLinesMax = 1_000;
export const draftKeyMs = 200;
/** Between two Ctrl-Cs for an agent that wants several: it forgets the first one after less than a second. */
export const interruptPauseMs = 400;
/** After the agent's end: how long what it wrote may take to arrive where something still holds its terminal. */
export const lastOutputMsMax = 2_000;
export const lastOutputQuietMs = 100;

// Profiles
export const profileFileBytesMax = 64 * 1024;

// Orchestrators of a shim, and terminals attached to one
/** Frames of one orchestrator that wait for the shim to read them. */
export const shimWaitingBytesMax = 8 * 1024 * 1024;
export const shimPingEveryMs = 60_000;
/** Without an answer to a ping for so long, a shim is stale. */
export const shimStaleMs = 120_000;
/** How long an answer of a shim is waited for: a state, a capture. */
export const shimAnswerMsMax = 10_000;
/** From the start of a shim to its first answer. */
export const shimStartMsMax = 20_000;
/** Of an attached terminal's frames, the kind included. */
export const attachmentFrameBytesMax = 256 * 1024;
/** Output that may wait for an attached terminal; one that is further behind is shown the screen as it is when it has caught up. */
export const attachmentBacklogBytesMax = 1024 * 1024;
/** Where so much waits, the agent does, until less than the other is left or the time is over. */
export const attachmentBacklogBytesHigh = 512 * 1024;
export const attachmentBacklogBytesLow = 128 * 1024;
export const attachmentHoldMsMax = 500;
/** How often it is looked whether a terminal whose keys have to wait is still there. */
export const terminalLookEveryMs = 1_000;
/** How long an agent of this host may be kept from being started or stopped by somebody who is at it. */
export const agentLockMsMax = 5_000;
/** How often it is looked whether an agent is there already, or gone. */
export const agentLookEveryMs = 25;
/** What one that is asked about itself may take. */
export const agentAnswerMsMax = 3_000;
/** `agent stop`: how long an agent that is at work has after Ctrl-C, and one that waits at its prompt, where Ctrl-C ends few. */
export const agentStopMsDefault = 5_000;
export const agentStopIdleMsDefault = 1_000;
/** Of agents that have ended, so many logs are kept, and so long. */
export const agentLogsKept = 100;
export const agentLogsKeptDays = 30;
/** How long an agent that is started in a terminal goes on without it. */
export const ownerAttachMsMax = 20_000;
export const attachmentsMax = 32;
/** How long a shim that is told to end may take beyond what its agent is given. */
export const agentStopMsMax = 10_000;
/** How long terminals may take to be told how the agent ended. */
export const attachmentEndMsMax = 2_000;
/** How long an agent and all that it started may take to end after SIGTERM, before SIGKILL. */
export const agentTermMs = 2_000;
/** The same when the shim itself was killed, and nobody waits for what the agent might still say. */
export const orphanTermMs = 1_000;
/** After SIGKILL, a process goes at once or hangs in the kernel; then it is named and left. */
export const agentKillMs = 5_000;
/** How often a shim looks which orphans of its agent have come to it. */
export const orphanLookEveryMs = 1_000;
/** So many orphans without a mark are told to the watchdog. */
export const orphansToldMax = 500;
/** A watchdog that was killed is started again, so many times. */
export const watchdogRestartsMax = 5;
export const watchdogRestartMs = 1_000;
/** How long a watchdog that is no longer needed may take to go. */
export const watchdogEndMs = 2_000;

// Agents that speak newline-delimited JSON
/** A longer line is passed over, and said to be. */
export const agentLineBytesMax = 64 * 1024 * 1024;
/** Of a response; of more, a part is left out. */
export const agentResponseCharsMax = 16 * 1024 * 1024;
/** What is kept for people of what was said, and how much of each line. */
export const transcriptLinesMax = 2_000;
export const transcriptLineCharsMax = 2_000;
/** What a capture of the whole screen holds, where there is no screen. */
export const transcriptScreenLines = 50;
/** An agent that does not answer the first request may not know it, and is taken to be ready. */
export const agentHandshakeMs = 10_000;
/** An agent that leaves a message unread for so long is told of. */
export const agentUnreadMs = 30_000;
/** When an agent has ended, what it started may hold its output open: how long that is still waited for. */
export const agentOutputEndMs = 1_000;
/** Lines that cannot be understood are reported one by one as long as there are no more of them. */
export const malformedLinesToldMax = 5;

// Mocks
/** Command and payload of a Pilot frame. */
export const pilotFrameBytesMax = 1024 * 1024;
export const scriptBytesMax = 4 * 1024 * 1024;
export const scriptRulesMax = 10_000;
/** Objects and lists inside each other, in a script and in what is compared with a recording. */
export const mockJsonDepthMax = 200;
/** What is read of a recording; a mock writes on beyond it. */
export const recordingBytesMax = 256 * 1024 * 1024;
/** How long a mock that records or replays waits for a body before it is answered without: what came by then stands for all of it. */
export const mockBodyMsMax = 1_000;
/** Of the stored events of a mock of the daemon, so many of the newest are kept. */
export const mockEventsKeptMax = 10_000;
/** What a timer holds; a longer one fires at once. */
export const timerMsMax = 2 ** 31 - 1;
/** What may wait for one client of a mock that does not read; what it sends is left unread as long as anything waits. */
export const mockWaitingBytesMax = 64 * 1024 * 1024;
/** What each thing that waits counts for besides its bytes. */
export const mockWaitingOverheadBytes = 256;
/** How long a mock that ends waits for the last lines of its log to be taken. */
export const mockLogEndMsMax = 50;
