/** Every command there is, by name. Each is loaded when it is asked for. */
import type { Group } from "~/cli/command";

const daemonOutbox: Group = {
  name: "daemon outbox",
  description: "what was sent and what became of it",
  commands: {
    list: () => import("~/cli/daemon/outbox-list").then(({ outboxList }) => outboxList),
    show: () => import("~/cli/daemon/outbox-show").then(({ outboxShow }) => outboxShow),
    requeue: () => import("~/cli/daemon/outbox-requeue").then(({ outboxRequeue }) => outboxRequeue),
  },
};

const daemon: Group = {
  name: "daemon",
  description: "this host's daemon: it keeps, sends and receives messages",
  commands: {
    up: () => import("~/cli/daemon/up").then(({ daemonUp }) => daemonUp),
    down: () => import("~/cli/daemon/down").then(({ daemonDown }) => daemonDown),
    restart: () => import("~/cli/daemon/restart").then(({ daemonRestart }) => daemonRestart),
    status: () => import("~/cli/daemon/status").then(({ daemonStatus }) => daemonStatus),
    version: () => import("~/cli/daemon/version").then(({ daemonVersion }) => daemonVersion),
    logs: () => import("~/cli/daemon/logs").then(({ daemonLogs }) => daemonLogs),
    "rotate-token": () => import("~/cli/daemon/rotate-token").then(({ rotateToken }) => rotateToken),
    recover: () => import("~/cli/daemon/recover").then(({ daemonRecover }) => daemonRecover),
    backup: () => import("~/cli/daemon/backup").then(({ daemonBackup }) => daemonBackup),
    restore: () => import("~/cli/daemon/restore").then(({ daemonRestore }) => daemonRestore),
    outbox: async () => daemonOutbox,
    "install-service": () =>
      import("~/cli/daemon/install-service").then(({ daemonInstallService }) => daemonInstallService),
    "uninstall-service": () =>
      import("~/cli/daemon/uninstall-service").then(({ daemonUninstallService }) => daemonUninstallService),
    "accept-host": () => import("~/cli/daemon/accept-host").then(({ daemonAcceptHost }) => daemonAcceptHost),
    remint: () => import("~/cli/daemon/remint").then(({ daemonRemint }) => daemonRemint),
  },
};

const broker: Group = {
  name: "broker",
  description: "the embedded broker, through which hosts reach each other",
  commands: {
    up: () => import("~/cli/broker/up").then(({ brokerUp }) => brokerUp),
    down: () => import("~/cli/broker/down").then(({ brokerDown }) => brokerDown),
    status: () => import("~/cli/broker/status").then(({ brokerStatus }) => brokerStatus),
  },
};

const mesh: Group = {
  name: "mesh",
  description: "the meshes that this host is in, and who else is",
  commands: {
    create: () => import("~/cli/mesh/create").then(({ meshCreate }) => meshCreate),
    invite: () => import("~/cli/mesh/invite").then(({ meshInvite }) => meshInvite),
    list: () => import("~/cli/mesh/list").then(({ meshList }) => meshList),
    members: () => import("~/cli/mesh/members").then(({ meshMembers }) => meshMembers),
    remove: () => import("~/cli/mesh/remove").then(({ meshRemove }) => meshRemove),
    leave: () => import("~/cli/mesh/leave").then(({ meshLeave }) => meshLeave),
    trust: () => import("~/cli/mesh/trust").then(({ meshTrust }) => meshTrust),
  },
};

const agent: Group = {
  name: "agent",
  description: "agents in terminals of this host, which take messages",
  commands: {
    run: () => import("~/cli/agent/run").then(({ agentRun }) => agentRun),
    list: () => import("~/cli/agent/list").then(({ agentList }) => agentList),
    send: () => import("~/cli/agent/send").then(({ agentSend }) => agentSend),
    capture: () => import("~/cli/agent/capture").then(({ agentCapture }) => agentCapture),
    attach: () => import("~/cli/agent/attach").then(({ agentAttach }) => agentAttach),
    stop: () => import("~/cli/agent/stop").then(({ agentStop }) => agentStop),
    logs: () => import("~/cli/agent/logs").then(({ agentLogs }) => agentLogs),
  },
};

const mock: Group = {
  name: "mock",
  description: "stand-in daemons for test harnesses",
  commands: {
    pilot: () => import("~/cli/mock/pilot").then(({ mockPilot }) => mockPilot),
    daemon: () => import("~/cli/mock/daemon").then(({ mockDaemon }) => mockDaemon),
    replay: () => import("~/cli/mock/replay").then(({ mockReplay }) => mockReplay),
    schema: () => import("~/cli/mock/schema").then(({ mockSchema }) => mockSchema),
  },
};

const config: Group = {
  name: "config",
  description: "the settings of this host's daemon",
  commands: {
    path: () => import("~/cli/config/path").then(({ configPath }) => configPath),
    show: () => import("~/cli/config/show").then(({ configShow }) => configShow),
    get: () => import("~/cli/config/get").then(({ configGet }) => configGet),
    set: () => import("~/cli/config/set").then(({ configSet }) => configSet),
    unset: () => import("~/cli/config/unset").then(({ configUnset }) => configUnset),
  },
};

export const tree: Group = {
  name: "claudemesh",
  description: "durable messages between hosts",
  commands: {
    demo: () => import("~/cli/demo").then(({ demo }) => demo),
    send: () => import("~/cli/send").then(({ send }) => send),
    track: () => import("~/cli/track").then(({ track }) => track),
    inbox: () => import("~/cli/inbox").then(({ inbox }) => inbox),
    peers: () => import("~/cli/peers").then(({ peers }) => peers),
    events: () => import("~/cli/events").then(({ events }) => events),
    profile: () => import("~/cli/profile").then(({ profile }) => profile),
    join: () => import("~/cli/join").then(({ join }) => join),
    mesh: async () => mesh,
    daemon: async () => daemon,
    broker: async () => broker,
    agent: async () => agent,
    shim: () => import("~/cli/shim").then(({ shim }) => shim),
    mock: async () => mock,
    config: async () => config,
    doctor: () => import("~/cli/doctor").then(({ doctor }) => doctor),
    completions: () => import("~/cli/completions").then(({ completions }) => completions),
    version: () => import("~/cli/version").then(({ versionCommand }) => versionCommand),
  },
  hidden: {
    complete: () => import("~/cli/complete").then(({ completeIn }) => completeIn(tree)),
    "end-agent": () => import("~/cli/end-agent").then(({ endAgentCommand }) => endAgentCommand),
  },
};
