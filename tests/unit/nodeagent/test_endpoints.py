"""What a node agent serves over HTTP, and to whom."""

import socket
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from meshkit import kube
from nodeagent.app import NodeAgent
from nodeagent.capture.choice import Choice
from nodeagent.capture.guard import Guard
from nodeagent.settings import NodeAgentSettings
from tests.support import backends
from tests.support.ports import free_port


def own_address() -> str:
    """An address of this machine that is not on loopback; skips where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("no address but loopback: needs a route to elsewhere")
        return str(probe.getsockname()[0])


async def test_the_page_of_pods_is_served_on_loopback_only(tmp_path: Path) -> None:
    port = free_port()
    settings = NodeAgentSettings.model_validate(
        {"node_name": "n1", "metrics_port": port, "health_port": free_port(), "zds_socket": tmp_path / "zds"}
    )
    choice = Choice(backends.backend("nftables", tmp_path / "lock"), (), "as set", Guard())
    agent = NodeAgent(settings, kube.Client(kube.config.explicit("http://127.0.0.1:1")), choice)
    async with AsyncExitStack() as stack, aiohttp.ClientSession() as web:
        await agent._open_endpoints(stack)
        async with web.get(f"http://127.0.0.1:{port}/debug/pods") as answer:
            assert (answer.status, await answer.json()) == (200, [])
        async with web.get(f"http://{own_address()}:{port}/debug/pods") as answer:
            assert answer.status == 403
        async with web.get(f"http://{own_address()}:{port}/metrics") as answer:
            assert answer.status == 200
