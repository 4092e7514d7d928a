"""FastMCP's proxy for the servers of a file: over stdio, or over HTTP on a port of this machine.

usage: fastmcp_proxy.py CONFIG [PORT]
"""

import json
import sys

from fastmcp.server import create_proxy

with open(sys.argv[1], encoding="utf-8") as file:
    config = json.load(file)
for server in config["mcpServers"].values():
    for key in ("name", "profile_tags"):
        del server[key]

proxy = create_proxy(config, name="bench")
if len(sys.argv) > 2:
    proxy.run(
        transport="http",
        host="127.0.0.1",
        port=int(sys.argv[2]),
        path="/mcp",
        show_banner=False,
        log_level="error",
    )
else:
    proxy.run(show_banner=False, log_level="error")
