/**
 * The property list for launchd (launchd.plist(5)), as text. The same decisions as for systemd (service/systemd.ts), in launchd's
 * words. launchd has no bound on how often a failing job is started, only on how quickly; and the programs that the daemon hosts
 * inherit its process type, so it is one that macOS does not slow down.
 */
import { inForeground, type ServiceDefinition } from "~/service/definition";
import { serviceOpenFilesMax, serviceStopMsMax, serviceThrottleMs } from "~/wire/limits";

export const launchdLabel = ({ suffix }: Pick<ServiceDefinition, "suffix">): string =>
  `com.claudemesh.daemon${suffix.replace(/^-/, ".")}`;

export function renderLaunchdPlist(service: ServiceDefinition): string {
  const isSystem = service.scope === "system";
  const environment = {
    ...(isSystem ? { HOME: service.account.home } : {}),
    ...inForeground(service),
  };
  const job: PlistValue = {
    Label: launchdLabel(service),
    ...(isSystem ? { UserName: service.account.name } : {}),
    ProgramArguments: [service.executable, ...service.args],
    EnvironmentVariables: environment,
    RunAtLoad: true,
    KeepAlive: { SuccessfulExit: false },
    ThrottleInterval: serviceThrottleMs / 1000,
    ExitTimeOut: serviceStopMsMax / 1000,
    AbandonProcessGroup: true,
    ProcessType: "Interactive",
    SoftResourceLimits: { NumberOfFiles: serviceOpenFilesMax.soft },
    StandardErrorPath: service.logFile,
  };
  return `<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<!-- Written by claudemesh daemon install-service, and replaced by the next one. -->
<plist version="1.0">
${renderValue(job, "")}
</plist>
`;
}

type PlistValue = string | number | boolean | readonly PlistValue[] | { readonly [key: string]: PlistValue };

function renderValue(value: PlistValue, indent: string): string {
  if (typeof value === "string") return `${indent}<string>${escapeXml(value)}</string>`;
  if (typeof value === "number") return `${indent}<integer>${value}</integer>`;
  if (typeof value === "boolean") return `${indent}<${value}/>`;
  const inner = `${indent}  `;
  if (isList(value)) {
    return [`${indent}<array>`, ...value.map((item) => renderValue(item, inner)), `${indent}</array>`].join(
      "\n",
    );
  }
  const entries = Object.entries(value).flatMap(([key, item]) => [
    `${inner}<key>${escapeXml(key)}</key>`,
    renderValue(item, inner),
  ]);
  return [`${indent}<dict>`, ...entries, `${indent}</dict>`].join("\n");
}

const isList = (value: PlistValue): value is readonly PlistValue[] => Array.isArray(value);

const escapeXml = (text: string): string =>
  text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
