"""Certificates and roots rotated under load: no connection fails, and expired certificates are refused."""

import asyncio
import time
from datetime import timedelta

import pytest

from tests.integration.test_handover import Load
from tests.support import namespaced
from tests.support.authority import TestAuthority
from tests.support.waiting import until
from tests.support.wire import captured

pytestmark = pytest.mark.root


async def renewed(mesh: namespaced.Mesh, pods: list[namespaced.Pod], signer: TestAuthority, roots: bytes) -> None:
    """Give each node the pods' certificates by ``signer``, one node after the other, as it happens in a mesh."""
    for pod in pods:
        chain, key = signer.issue(pod.identity, life=timedelta(seconds=60))
        for node in mesh.nodes:
            node.engine.set_trust_bundle(roots)
            node.engine.set_certificate(pod.identity, chain, key)
        await asyncio.sleep(0.02)


async def test_minute_long_certificates_are_renewed_under_load_without_a_failure() -> None:
    async with namespaced.mesh() as mesh:
        server, client = await mesh.pod("server", node=1), await mesh.pod("client")
        await server.serve_peer(8080)
        reader, writer = await client.connect(server.ip, 8080)
        load = Load([client], server.ip)
        for _ in range(40):
            await renewed(mesh, [server, client], mesh.authority, mesh.authority.roots)
        await until(lambda: load.done["client"] > 200, within_s=30)
        await load.stop()
        assert load.failures == []
        writer.write(b"still here")
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(-1), 3) == f"{client.ip} still here".encode()
        writer.close()


class Signer:
    """A CA at one step of a rotation: it signs with one root and distributes a set of roots."""

    def __init__(self, authority: TestAuthority, roots: bytes, *, life: timedelta = timedelta(hours=1)) -> None:
        self._authority = authority
        self._life = life
        self.roots = roots

    def issue(self, uri: str, *, life: timedelta | None = None) -> tuple[bytes, bytes]:
        return self._authority.issue(uri, life=life or self._life)


async def test_roots_are_exchanged_under_load_without_a_failure() -> None:
    """Both roots, then the new signer, then the new root alone; new tunnels are made at every step.

    Connections that are older than the new certificates end with the old root, later ones do not.
    """
    async with namespaced.mesh() as mesh:
        server, client = await mesh.pod("server", node=1), await mesh.pod("client")
        await server.serve_peer(8080)
        old, new = mesh.authority, TestAuthority()
        both = old.roots + new.roots
        load = Load([client], server.ip)
        await until(lambda: load.done["client"] > 20, within_s=10)
        connections = [await client.connect(server.ip, 8080)]
        known = [server, client]
        for step, signer in enumerate([Signer(old, both), Signer(new, both), Signer(new, new.roots)]):
            for node in mesh.nodes:
                node.authority = signer
            for pod in known:
                certificate = signer.issue(pod.identity)
                for node in mesh.nodes:
                    node.engine.set_trust_bundle(signer.roots)
                    node.engine.set_certificate(pod.identity, *certificate)
                    # A new pod completes handshakes while only some of the nodes have the new roots.
                    fresh = await mesh.pod(f"fresh{step}{pod.name}{node.name[-1]}")
                    assert await fresh.request(server.ip, 8080) == f"{fresh.ip} hello".encode()
            before = load.done["client"]
            await until(lambda before=before: load.done["client"] > before + 50, within_s=20)
            connections.append(await client.connect(server.ip, 8080))
        await load.stop()
        assert load.failures == []
        for reader, _ in connections[:2]:
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(reader.read(-1), 3)
        for reader, writer in connections[2:]:
            writer.write_eof()
            assert await asyncio.wait_for(reader.read(-1), 3) == f"{client.ip} ".encode()
            writer.close()
        for node in mesh.nodes:
            node.authority = Signer(old, both)
        late = await mesh.pod("late")
        with pytest.raises((OSError, AssertionError)):
            await late.request(server.ip, 8080)
        assert not any(line.get("src.identity") == late.identity for line in server.node.log)


async def test_an_expired_certificate_is_refused_and_nothing_goes_in_plain_text() -> None:
    async with namespaced.mesh() as mesh:
        server, client = await mesh.pod("server", node=1), await mesh.pod("client")
        await server.serve_peer(8080)
        chain, key = mesh.authority.issue(client.identity, life=timedelta(seconds=-1))
        for node in mesh.nodes:
            node.engine.set_certificate(client.identity, chain, key)
        with pytest.raises((OSError, AssertionError)):
            await client.request(server.ip, 8080)
        assert all(line.get("src.identity") or line.get("error") for line in server.node.log)


async def test_a_certificate_that_expires_ends_new_connections_and_the_wire_shows_no_plain_text() -> None:
    """New connections fail in an open tunnel too; open connections go on, and a renewal lets new ones through."""
    async with namespaced.mesh() as mesh:
        server, plain = await mesh.pod("server", node=1), await mesh.pod("plain", captured=False)
        for pod in (server, plain):
            await pod.serve_peer(8080)
        outsider = await mesh.pod("outsider", captured=False)
        mesh.nodes[0].authority = Signer(mesh.authority, mesh.authority.roots, life=timedelta(seconds=4))
        client, begun = await mesh.pod("client"), time.time()
        refused: list[float] = []
        with captured("any", "tcp", mesh.space) as wire:
            assert await outsider.request(plain.ip, 8080) == f"{outsider.ip} hello".encode()
            reader, writer = await client.connect(server.ip, 8080)
            assert await reader.readexactly(len(client.ip) + 1) == f"{client.ip} ".encode()
            for _ in range(60):
                try:
                    assert await client.request(server.ip, 8080, b"secret") == f"{client.ip} secret".encode()
                    assert refused == [], "an expired certificate stays refused"
                except OSError:
                    refused.append(time.time() - begun)
                await asyncio.sleep(0.1)
                writer.write(b"secret")
                assert await asyncio.wait_for(reader.readexactly(6), 3) == b"secret"
            for node in mesh.nodes:
                node.engine.set_certificate(client.identity, *mesh.authority.issue(client.identity))
            assert await client.request(server.ip, 8080, b"secret") == f"{client.ip} secret".encode()
            writer.close()
        assert min(refused) > 2
        assert len(refused) > 3
        assert wire[0].packets("hello") > 0, "the capture on the wire works"
        assert wire[0].packets("secret") == 0
