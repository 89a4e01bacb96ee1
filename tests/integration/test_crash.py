"""ztunnel's process killed without a word: connections fail closed, and work again within a second."""

import asyncio
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from meshkit.linux import netns
from tests.support import namespaced, ztunnels
from tests.support.waiting import until

pytestmark = pytest.mark.root

KILLS = 3
BACK_WITHIN_S = 1.0


async def test_a_killed_ztunnel_serves_again_within_a_second_each_time(tmp_path: Path) -> None:
    async with namespaced.mesh() as mesh, ztunnels.node_side(tmp_path, mesh.authority) as node:
        server = await mesh.pod("server", node=1)
        client = await mesh.pod("client", captured=False)
        node.capture(client)
        await server.serve_peer(8080)
        await node.announce(mesh, server, client)
        ztunnel = await node.start()
        await ztunnel.ready()
        assert await client.request(server.ip, 8080) == f"{client.ip} hello".encode()
        gaps = []
        for _ in range(KILLS):
            victim = ztunnel.worker()
            os.kill(victim, signal.SIGKILL)
            killed = time.monotonic()
            answer = None
            while answer is None:
                try:
                    answer = await client.request(server.ip, 8080, within_s=2)
                except (OSError, TimeoutError, AssertionError):
                    assert time.monotonic() - killed < 15, ztunnel.log
                    await asyncio.sleep(0.005)
            gaps.append(round(time.monotonic() - killed, 3))
            assert answer == f"{client.ip} hello".encode(), "by the tunnel, and with the client's own address"
            assert ztunnel.worker() != victim
        print(f"back after {gaps} s")
        assert max(gaps) < BACK_WITHIN_S, f"{gaps}\n{ztunnel.log}"
        # Every answer came through the tunnel: the server's node saw no plain-text connection of the client.
        await server.node.logged(direction="inbound", src__workload="client")
        seen = {line.get("src.identity") for line in server.node.log if line["direction"] == "inbound"}
        assert seen == {client.identity}


async def test_termination_reaches_the_serving_process(tmp_path: Path) -> None:
    async with namespaced.mesh() as mesh, ztunnels.node_side(tmp_path, mesh.authority) as node:
        client = await mesh.pod("client", captured=False)
        node.serve(client.uid, client.name, netns.path(client.netns))
        await node.announce(mesh, client)
        ztunnel = await node.start(termination_grace_period_seconds=6, handover_s=0)
        await ztunnel.ready()
        worker = ztunnel.worker()
        ztunnel.terminate()
        assert await ztunnel.ended() == 0
        assert "drained" in ztunnel.log
        await until(lambda: not Path(f"/proc/{worker}").exists())


async def test_a_ztunnel_that_cannot_start_ends_instead_of_trying_for_ever(tmp_path: Path) -> None:
    async with namespaced.mesh() as mesh, ztunnels.node_side(tmp_path, mesh.authority) as node:
        await mesh.pod("client", captured=False)
        with socket.create_server(("0.0.0.0", 0)) as taken:
            ztunnel = await node.start(metrics_port=taken.getsockname()[1])
            assert await ztunnel.ended() == 1
        assert "cannot run" in ztunnel.log
        assert "starting again" not in ztunnel.log
