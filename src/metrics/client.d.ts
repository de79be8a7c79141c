/**
 * The parts of the Prometheus client that are used here, each by its own path: the whole of it also brings a push gateway, HTTP
 * clients and tracing along, which a process that is asked for its metrics would keep in memory.
 */
declare module "@prometheus-io/client/lib/registry" {
  const Registry: typeof import("@prometheus-io/client").Registry;
  export = Registry;
}
declare module "@prometheus-io/client/lib/counter" {
  const Counter: typeof import("@prometheus-io/client").Counter;
  export = Counter;
}
declare module "@prometheus-io/client/lib/gauge" {
  const Gauge: typeof import("@prometheus-io/client").Gauge;
  export = Gauge;
}
