// A stdio server of the legacy era on the TypeScript SDK 1.x, for what server-everything cannot show: large results,
// and that a cancel arrives (each event is appended as a JSON line to the file PEER_EVENTS).
import { appendFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(join(process.env.PEER_NODE, "anchor.js"));
const { McpServer } = require("@modelcontextprotocol/sdk/server/mcp.js");
const { StdioServerTransport } = require("@modelcontextprotocol/sdk/server/stdio.js");
const { z } = require("zod");

const note = (event) => {
  if (process.env.PEER_EVENTS) appendFileSync(process.env.PEER_EVENTS, `${JSON.stringify({ event })}\n`);
};
const answer = (text) => ({ content: [{ type: "text", text }] });
const server = new McpServer({ name: "peer-server-legacy", version: "1.0.0" });

server.registerTool("echo", { inputSchema: { message: z.string() } }, ({ message }) => answer(message));

server.registerTool("bulk", { inputSchema: { bytes: z.number().int() } }, ({ bytes }) =>
  answer("0123456789abcdef".repeat(Math.ceil(bytes / 16)).slice(0, bytes)),
);

server.registerTool(
  "wait",
  { inputSchema: { steps: z.number().int(), step_ms: z.number().int() } },
  async ({ steps, step_ms }, { signal, sendNotification, _meta }) => {
    if (signal.aborted) note("cancelled");
    else signal.addEventListener("abort", () => note("cancelled"));
    for (let progress = 1; progress <= steps && !signal.aborted; progress += 1) {
      await new Promise((resolve) => setTimeout(resolve, step_ms));
      if (_meta?.progressToken !== undefined && !signal.aborted) {
        const params = { progressToken: _meta.progressToken, progress, total: steps };
        await sendNotification({ method: "notifications/progress", params });
      }
    }
    if (!signal.aborted) note("finished");
    return answer(`waited ${steps}`);
  },
);

note("started");
await server.connect(new StdioServerTransport());
