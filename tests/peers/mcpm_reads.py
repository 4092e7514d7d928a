"""Says what the Python `mcpm` reads from its files: one JSON object for each line on standard input.

It asks the managers that the commands of `mcpm` ask, so that one process does for many steps: a start of `mcpm` takes
seconds.
"""

import json
import sys

from mcpm.clients.client_registry import ClientRegistry
from mcpm.global_config import GlobalConfigManager
from mcpm.profile.profile_config import ProfileConfigManager
from mcpm.utils.config import ConfigManager


def plain(value):
    return value if isinstance(value, dict) else value.model_dump()


def read(client):
    servers = GlobalConfigManager().list_servers()
    profiles = ProfileConfigManager().list_profiles()
    entries = ClientRegistry.get_client_manager(client).get_servers()
    return {
        "servers": {name: plain(server) for name, server in servers.items()},
        "profiles": {name: [server.name for server in members] for name, members in profiles.items()},
        "client": {name: plain(entry) for name, entry in entries.items()},
        "settings": ConfigManager().get_config(),
    }


print("ready", flush=True)
for line in sys.stdin:
    print(json.dumps(read(line.strip())), flush=True)
