// The npm packages `@modelcontextprotocol/sdk` and `@modelcontextprotocol/client` as clients, unmodified and at their default
// time-outs; the era chooses the package's negotiation. Run from the folder that holds node_modules. See plan.md.

import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import path from "node:path";

const [name, url, token, era, planText] = process.argv.slice(2);
const require = createRequire(path.join(process.cwd(), "package.json"));
const load = (id) => import(pathToFileURL(require.resolve(id)).href);
const plan = JSON.parse(planText);
const say = (step, facts) => console.log(JSON.stringify({ step, ...facts }));

async function connect() {
  const init = { requestInit: { headers: { Authorization: `Bearer ${token}` } } };
  const info = { name: "peer-test", version: "1.0.0" };
  if (name === "sdk") {
    const { Client } = await load("@modelcontextprotocol/sdk/client/index.js");
    const { StreamableHTTPClientTransport } = await load("@modelcontextprotocol/sdk/client/streamableHttp.js");
    const client = new Client(info);
    const transport = new StreamableHTTPClientTransport(new URL(url), init);
    await client.connect(transport);
    return [client, transport.protocolVersion];
  }
  const { Client, StreamableHTTPClientTransport } = await load("@modelcontextprotocol/client");
  const mode = era === "legacy" ? "legacy" : { pin: "2026-07-28" };
  const client = new Client(info, { versionNegotiation: { mode } });
  const transport = new StreamableHTTPClientTransport(new URL(url), init);
  await client.connect(transport);
  return [client, era === "legacy" ? transport.protocolVersion : "2026-07-28"];
}

async function step(kind, server, what) {
  const start = performance.now();
  let result = { content: [], isError: true };
  try {
    result = await client.callTool({ name: what.name, arguments: what.arguments });
  } catch (error) {
    result.content = [{ type: "text", text: `${error}` }];
  }
  const text = (result.content ?? []).map((block) => block.text ?? "").join("\n");
  const seconds = Math.round((performance.now() - start) / 10) / 100;
  say(kind, { server, ok: !result.isError, seconds, text, meta: result._meta ?? {} });
  return result;
}

async function runServer(server, todo) {
  await step("read", server, todo.read);
  const late = async () => {
    const pending = (await step("gave-up", server, todo.late))._meta?.["dev.countersign/pending"] ?? {};
    await step("late", server, { name: "await_approval", arguments: { request_id: pending.request_id ?? "" } });
  };
  await Promise.all([step("while", server, todo.while), late()]);
}

const [client, revision] = await connect();
say("connected", { revision });
const tools = (await client.listTools()).tools.map((tool) => tool.name);
say("list", { ok: plan.expect.every((name) => tools.includes(name)), tools });
await Promise.all(Object.entries(plan.servers).map(([server, todo]) => runServer(server, todo)));
await client.close();
