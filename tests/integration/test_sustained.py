"""One client that connects for longer than there are ports to connect from."""

import asyncio
import json

import pytest

from tests.support import load, namespaced

pytestmark = pytest.mark.root

PORTS = 22_528
"""Ports that the tunnel connects from; see ``FOREIGN_PORTS`` in the engine."""
ROUND_S = 5.0
ROUNDS = 12


async def test_connections_go_on_when_every_port_has_been_used_within_a_minute() -> None:
    async with namespaced.mesh() as mesh:
        server = await mesh.pod("server", node=1)
        client = await mesh.pod("client")
        serving = await load.serve(server, 8080)
        opened = 0.0
        for _ in range(ROUNDS):
            running = await load.start(client, "connect", server.ip, "8080", "8", str(ROUND_S))
            out, err = await asyncio.wait_for(running.communicate(), 60)
            assert running.returncode == 0, f"after {opened:.0f} connections: {err.decode()}"
            opened += json.loads(out)["per_s"] * ROUND_S
            if opened > 1.3 * PORTS:
                break
        serving.terminate()
        await serving.wait()
    print(f"{opened:.0f} connections from {PORTS} ports")
    assert opened > 1.3 * PORTS
