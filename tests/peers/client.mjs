// One scenario with an official TypeScript SDK client, driven by the Rust peer suite.
//
//   node client.mjs SCENARIO [OPTIONS as JSON]
//
// Environment: PEER_SDK (`v1`, or `v2`, or `v2-auto` which probes for the modern era first), PEER_NODE (the folder
// that holds node_modules), and either PEER_URL with PEER_TOKEN (a bearer token, may be absent) or PEER_COMMAND (a
// program with its arguments, as JSON, that speaks MCP over stdio).
// One JSON object a line on stdout; the last one is `done` or `error`, and the exit code says the same.
import { createHash } from "node:crypto";
import { createRequire } from "node:module";
import { join } from "node:path";
import { createInterface } from "node:readline";

const { PEER_SDK = "v1", PEER_NODE, PEER_URL, PEER_TOKEN, PEER_COMMAND } = process.env;
const [scenario, rawOptions = "{}"] = process.argv.slice(2);
const options = JSON.parse(rawOptions);
const require = createRequire(join(PEER_NODE, "anchor.js"));
const statuses = [];

const say = (event, fields = {}) => process.stdout.write(`${JSON.stringify({ event, ...fields })}\n`);

function sdk() {
  if (PEER_SDK === "v1") {
    const { Client } = require("@modelcontextprotocol/sdk/client/index.js");
    const { StreamableHTTPClientTransport } = require("@modelcontextprotocol/sdk/client/streamableHttp.js");
    const { StdioClientTransport } = require("@modelcontextprotocol/sdk/client/stdio.js");
    const call = (c, p, o) => c.callTool(p, undefined, o);
    return { Client, StreamableHTTPClientTransport, StdioClientTransport, call, settings: {} };
  }
  const { Client, StreamableHTTPClientTransport } = require("@modelcontextprotocol/client");
  const { StdioClientTransport } = require("@modelcontextprotocol/client/stdio");
  const settings = PEER_SDK === "v2-auto" ? { versionNegotiation: { mode: "auto" } } : {};
  const call = (c, p, o) => c.callTool(p, o);
  return { Client, StreamableHTTPClientTransport, StdioClientTransport, call, settings };
}

const { Client, StreamableHTTPClientTransport, StdioClientTransport, call, settings } = sdk();

function transportOf() {
  if (PEER_COMMAND) {
    const [command, ...args] = JSON.parse(PEER_COMMAND);
    return new StdioClientTransport({ command, args, env: process.env });
  }
  const headers = PEER_TOKEN ? { Authorization: `Bearer ${PEER_TOKEN}` } : {};
  return new StreamableHTTPClientTransport(new URL(PEER_URL), {
    requestInit: { headers },
    fetch: async (url, init) => {
      const response = await fetch(url, init);
      statuses.push(response.status);
      return response;
    },
  });
}

async function connect() {
  const client = new Client({ name: `peer-${PEER_SDK}`, version: "1.0.0" }, settings);
  const transport = transportOf();
  await client.connect(transport);
  return {
    client,
    call: (tool, args, more = {}) => call(client, { name: tool, arguments: args }, { timeout: 120_000, ...more }),
    close: async () => {
      if (transport.terminateSession) await transport.terminateSession().catch(() => {});
      await client.close();
    },
  };
}

const text = (result) => result.content.map((part) => part.text ?? "").join("");

async function progressOf(peer, { tool, args }, tell) {
  const result = await peer.call(tool, args, {
    onprogress: ({ progress, total }) => tell("progress", { progress, total }),
  });
  tell("result", { text: text(result) });
}

async function cancelOne(peer, { tool, args, then }) {
  const abort = new AbortController();
  try {
    await peer.call(tool, args, {
      signal: abort.signal,
      onprogress: () => abort.abort(new Error("the peer suite cancels")),
    });
    throw new Error("the cancelled call ended with a result");
  } catch (error) {
    if (!abort.signal.aborted) throw error;
    say("cancelled");
  }
  say("result", { text: text(await peer.call(then.tool, then.args)) });
}

async function manyInARow(peer, { tool, count, prefix = "" }) {
  const started = Date.now();
  for (let i = 0; i < count; i += 1) {
    const got = text(await peer.call(tool, { message: `m${i}` }));
    if (got !== `${prefix}m${i}`) throw new Error(`call ${i} answered ${got}`);
  }
  say("result", { calls: count, ms: Date.now() - started });
}

async function tour(peer, { calls }) {
  const { tools } = await peer.client.listTools();
  say("tools", { names: tools.map((tool) => tool.name) });
  for (const { tool, args } of calls) {
    const result = await peer.call(tool, args);
    say("answer", { tool, text: text(result), failed: result.isError ?? false });
  }
}

async function onDemand(peer) {
  for await (const line of createInterface({ input: process.stdin })) {
    const { tool, args } = JSON.parse(line);
    try {
      say("result", { text: text(await peer.call(tool, args)), status: statuses.at(-1) });
    } catch (error) {
      say("failed", { message: String(error.message ?? error), status: statuses.at(-1) });
    }
  }
}

const scenarios = {
  basic: async (peer) => {
    const { tools } = await peer.client.listTools();
    say("tools", { names: tools.map((tool) => tool.name) });
    if (options.tool) say("result", { text: text(await peer.call(options.tool, options.args)) });
  },
  progress: (peer) => progressOf(peer, options, say),
  cancel: (peer) => cancelOne(peer, options),
  bulk: async (peer) => {
    const body = text(await peer.call(options.tool, options.args));
    say("result", { length: body.length, sha256: createHash("sha256").update(body).digest("hex") });
  },
  many: (peer) => manyInARow(peer, options),
  pair: async (peer) => {
    const second = await connect();
    const numbered = (number) => (event, fields) => say(event, { client: number, ...fields });
    await Promise.all([
      progressOf(peer, options.first, numbered(1)),
      progressOf(second, options.second, numbered(2)),
    ]);
    await second.close();
  },
  interactive: (peer) => onDemand(peer),
  tour: (peer) => tour(peer, options),
};

try {
  const peer = await connect();
  const server = peer.client.getServerVersion();
  say("connected", { server: server?.name, protocol: peer.client.getNegotiatedProtocolVersion?.() });
  await scenarios[scenario](peer);
  await peer.close();
  say("done");
} catch (error) {
  say("error", { message: String(error?.message ?? error), statuses });
  process.exitCode = 1;
}
