"""ztunnel started without a control plane, as the process that users run."""

from pathlib import Path

import pytest

from tests.support import namespaced, ztunnels
from tests.support.waiting import until

pytestmark = pytest.mark.root


async def test_a_ztunnel_without_control_plane_serves_the_state_of_its_snapshot(tmp_path: Path) -> None:
    async with namespaced.mesh() as mesh, ztunnels.node_side(tmp_path, mesh.authority) as node:
        server = await mesh.pod("server", node=1)
        client = await mesh.pod("client", captured=False)
        node.capture(client)
        await server.serve_peer(8080)
        mesh.announce(client)
        with pytest.raises(OSError):
            await client.request(server.ip, 8080)
        await node.announce(mesh, server, client)
        ztunnel = await node.start()
        await ztunnel.ready()
        assert await client.request(server.ip, 8080) == f"{client.ip} hello".encode()
        line = await server.node.logged(direction="inbound", src__workload="client", dst__workload="server")
        assert line["src.identity"] == client.identity
        assert "serving the restored state" in ztunnel.log


async def test_a_ztunnel_without_control_plane_and_snapshot_is_not_ready_and_refuses_connections(
    tmp_path: Path,
) -> None:
    async with namespaced.mesh() as mesh, ztunnels.node_side(tmp_path, mesh.authority) as node:
        (tmp_path / "state.snapshot").write_bytes(b"damaged")
        ztunnel = await node.start()
        await until(lambda: "will reconnect" in ztunnel.log, within_s=20)
        assert "snapshot of the mesh ignored" in ztunnel.log
        assert not node.zds.connected
        with pytest.raises(AssertionError, match="not ready"):
            await ztunnel.ready(within_s=1)
