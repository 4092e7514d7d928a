"""One scenario with the official Python SDK client or FastMCP's, driven by the Rust peer suite.

    python client.py SCENARIO [OPTIONS as JSON]

Environment: PEER_SDK (`python` and `fastmcp` probe for the modern era first, `python-legacy` and `fastmcp-legacy` do
not; FastMCP's know the scenario `tour` only), and either PEER_URL with PEER_TOKEN (a bearer token, may be absent) or
PEER_COMMAND (a program with its arguments, as JSON, that speaks MCP over stdio). One JSON object a line on stdout; the
last one is `done` or `error`, and the exit code says the same.
"""

import asyncio
import hashlib
import json
import os
import sys
import time
from contextlib import AsyncExitStack

import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

STATUSES: list[int] = []


def say(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)


async def note_status(response: httpx2.Response) -> None:
    STATUSES.append(response.status_code)


async def transport_of(stack: AsyncExitStack):
    if command := os.environ.get("PEER_COMMAND"):
        program, *args = json.loads(command)
        return StdioServerParameters(command=program, args=args, env=dict(os.environ))
    token = os.environ.get("PEER_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else None
    http = create_mcp_http_client(headers=headers)
    http.event_hooks = {"response": [note_status]}
    await stack.enter_async_context(http)
    return streamable_http_client(os.environ["PEER_URL"], http_client=http)


def fastmcp_client(mode: str):
    import fastmcp
    from fastmcp.client.transports import StdioTransport

    if command := os.environ.get("PEER_COMMAND"):
        program, *args = json.loads(command)
        transport = StdioTransport(program, args, env=dict(os.environ))
        return fastmcp.Client(transport, mode=mode, timeout=120)
    return fastmcp.Client(os.environ["PEER_URL"], auth=os.environ.get("PEER_TOKEN") or None, mode=mode, timeout=120)


async def connect(stack: AsyncExitStack):
    kind = os.environ.get("PEER_SDK", "python")
    mode = "legacy" if kind.endswith("-legacy") else "auto"
    if kind.startswith("fastmcp"):
        client = fastmcp_client(mode)
    else:
        client = Client(await transport_of(stack), mode=mode, read_timeout_seconds=120)
    return await stack.enter_async_context(client)


def text(result) -> str:
    return "".join(getattr(part, "text", "") for part in result.content)


async def progress_of(peer, options, /, **extra):
    async def tell(progress, total, _message):
        say("progress", progress=progress, total=total, **extra)

    result = await peer.call_tool(options["tool"], options["args"], progress_callback=tell)
    say("result", text=text(result), **extra)


async def basic(client, _stack, options):
    say("tools", names=[tool.name for tool in (await client.list_tools()).tools])
    if "tool" in options:
        say("result", text=text(await client.call_tool(options["tool"], options["args"])))


async def progress(client, _stack, options):
    await progress_of(client, options)


async def cancel(client, _stack, options):
    started = asyncio.Event()

    async def begun(_progress, _total, _message):
        started.set()

    call = asyncio.create_task(client.call_tool(options["tool"], options["args"], progress_callback=begun))
    await started.wait()
    call.cancel()
    try:
        await call
        raise RuntimeError("the cancelled call ended with a result")
    except asyncio.CancelledError:
        say("cancelled")
    then = options["then"]
    say("result", text=text(await client.call_tool(then["tool"], then["args"])))


async def bulk(client, _stack, options):
    body = text(await client.call_tool(options["tool"], options["args"]))
    say("result", length=len(body), sha256=hashlib.sha256(body.encode()).hexdigest())


async def many(client, _stack, options):
    begin = time.monotonic()
    for i in range(options["count"]):
        got = text(await client.call_tool(options["tool"], {"message": f"m{i}"}))
        if got != f"{options.get('prefix', '')}m{i}":
            raise RuntimeError(f"call {i} answered {got}")
    say("result", calls=options["count"], ms=round((time.monotonic() - begin) * 1000))


async def pair(client, stack, options):
    second = await connect(stack)
    await asyncio.gather(
        progress_of(client, options["first"], client=1),
        progress_of(second, options["second"], client=2),
    )


async def tour(client, _stack, options):
    tools = await client.list_tools()
    say("tools", names=[tool.name for tool in getattr(tools, "tools", tools)])
    # FastMCP raises what the server calls an error, unless told otherwise.
    extra = {"raise_on_error": False} if os.environ["PEER_SDK"].startswith("fastmcp") else {}
    for call in options["calls"]:
        result = await client.call_tool(call["tool"], call["args"], **extra)
        say("answer", tool=call["tool"], text=text(result), failed=bool(result.is_error))


async def interactive(client, _stack, _options):
    while line := await asyncio.to_thread(sys.stdin.readline):
        call = json.loads(line)
        try:
            say("result", text=text(await client.call_tool(call["tool"], call["args"])), status=STATUSES[-1])
        except Exception as error:  # the suite judges what failed
            say("failed", message=str(error), status=STATUSES[-1])


SCENARIOS = {f.__name__: f for f in (basic, progress, cancel, bulk, many, pair, interactive, tour)}


async def main() -> None:
    options = json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
    async with AsyncExitStack() as stack:
        client = await connect(stack)
        server = client.server_info
        say("connected", server=server.name if server else None, protocol=client.protocol_version)
        await SCENARIOS[sys.argv[1]](client, stack, options)


def root_cause(error: BaseException) -> BaseException:
    """The SDK's task groups wrap the one error that matters."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


try:
    asyncio.run(main())
    say("done")
except BaseException as error:
    say("error", message=str(root_cause(error)), statuses=STATUSES)
    sys.exit(1)
