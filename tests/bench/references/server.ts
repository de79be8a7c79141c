/** Serves one constant answer on the Unix socket that it is told. */
const [, , unix = ""] = process.argv;
Bun.serve({ unix, fetch: () => new Response("ok") });
