"""The same tools as server.mjs on the Python SDK 2.x, which speaks both eras: the modern one when asked for it."""

import asyncio
import json
import os

import anyio
from mcp.server.mcpserver import Context, MCPServer

server = MCPServer("peer-server-modern")


def note(event: str) -> None:
    if path := os.environ.get("PEER_EVENTS"):
        with open(path, "a", encoding="utf-8") as events:
            events.write(json.dumps({"event": event}) + "\n")


@server.tool(structured_output=False)
def echo(message: str) -> str:
    return message


@server.tool(structured_output=False)
def bulk(bytes: int) -> str:
    return ("0123456789abcdef" * (bytes // 16 + 1))[:bytes]


@server.tool(structured_output=False)
async def wait(steps: int, step_ms: int, ctx: Context) -> str:
    try:
        for step in range(1, steps + 1):
            await asyncio.sleep(step_ms / 1000)
            await ctx.report_progress(step, steps)
    except anyio.get_cancelled_exc_class():
        note("cancelled")
        raise
    note("finished")
    return f"waited {steps}"


note("started")
server.run("stdio")
