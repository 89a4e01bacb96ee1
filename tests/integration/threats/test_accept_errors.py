"""Threat ``accept-errors``: a server that ends because ``accept`` failed once (RUSTSEC-2024-0376): here it waits, and
goes on.
"""

import asyncio
import resource
import socket
from pathlib import Path

import pytest

from meshapi import names
from tests.integration.threats.conftest import PORT, Scene
from tests.support import attacker

pytestmark = pytest.mark.root


async def test_without_free_descriptors_connections_wait_and_are_served_later(scene: Scene) -> None:
    loop = asyncio.get_running_loop()
    authority = scene.mesh.authority
    context = attacker.tls_context(*authority.issue(scene.outsider.identity), authority.roots)
    sockets = [scene.outsider.in_namespace(lambda: socket.socket(socket.AF_INET)) for _ in range(20)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with scene.others_are_served():
        highest = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
        holes = [socket.socket() for _ in range(highest)]  # no number below the limit is free
        highest = max(one.fileno() for one in holes)
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                socket.socket()
            for one in sockets:
                one.setblocking(False)
                await loop.sock_connect(one, (scene.server.ip, names.HBONE_PORT))
            # The kernel has completed them; the engine cannot accept them, retries, and serves open connections.
            before = scene.metric("istio_tcp_connections_opened")
            await asyncio.sleep(0.3)
            assert scene.metric("istio_tcp_connections_opened") == before
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for one in holes:
                one.close()
        for one in sockets:
            reader, writer = await asyncio.open_connection(sock=one, ssl=context, server_hostname="")
            attack = attacker.Attacker(reader, writer)
            attack.send(attacker.PREFACE, attacker.frames.SettingsFrame(0))
            attack.connect(1, f"{scene.server.ip}:{PORT}")
            await attack.answer(1)
            await attack.close()
