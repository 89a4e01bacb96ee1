"""Threat ``revocation``: a root that is removed from the trust bundle ends the tunnels whose
peer certificate it issued.

Rotation without failures is tested in ``tests/integration/test_rotation.py``.
"""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import NoReturn

import pytest

from meshapi import names
from meshkit.xds import sds
from meshkit.xds.client import NodeInfo
from meshproxy.certificates import Certificates
from tests.integration.threats.conftest import PORT, Scene, breaks
from tests.support import attacker, namespaced
from tests.support.authority import TestAuthority
from tests.support.waiting import until

pytestmark = pytest.mark.root

LIVE = "connection closed: the root of the peer's certificate is not trusted any more"


@dataclass
class RootsScene(Scene):
    """All trust two roots; ``suspect``, a second client on the client's node, has a certificate of the removed root."""

    suspect: namespaced.Pod
    stays: TestAuthority
    goes: TestAuthority

    @property
    def both(self) -> bytes:
        return self.stays.roots + self.goes.roots

    def give(self, pod: namespaced.Pod, authority: TestAuthority, roots: bytes) -> None:
        """Renew the pod's certificate; the roots are those of all pods on its node."""
        pod.node.engine.set_trust_bundle(roots)
        pod.node.engine.set_certificate(pod.identity, *authority.issue(pod.identity))


@pytest.fixture
async def scene() -> AsyncIterator[RootsScene]:
    stays, goes = TestAuthority(), TestAuthority()
    async with namespaced.mesh(authority=stays) as mesh:
        server = await mesh.pod("server", node=1)
        client, suspect = await mesh.pod("client"), await mesh.pod("suspect")
        outsider = await mesh.pod("outsider", captured=False)
        seen = await server.serve_peer(PORT)
        made = RootsScene(mesh, server, client, outsider, seen, suspect, stays, goes)
        for pod, authority in ((server, stays), (client, stays), (suspect, goes)):
            made.give(pod, authority, made.both)
        yield made


async def test_only_the_clients_of_a_removed_root_are_closed_and_refused(scene: RootsScene) -> None:
    node = scene.server.node
    async with scene.others_are_served(), scene.open_connection(scene.suspect) as (reader, _):
        scene.give(scene.server, scene.stays, scene.both + TestAuthority().roots)
        assert not await scene.is_refused(scene.suspect), "one more root ends nothing"
        scene.give(scene.server, scene.stays, scene.stays.roots)
        await breaks(reader, within_s=1)
        line = await node.logged(error=LIVE, direction="inbound")
        assert line["src.identity"] == scene.suspect.identity
        assert node.metric("culvert_connections_untrusted", reporter="destination") == 1
        await until(lambda: scene.metric("istio_tcp_connections_closed", response_flags="CERT_UNTRUSTED") == 1)
        assert await scene.is_refused(scene.suspect)
    scene.give(scene.server, scene.stays, scene.both)
    assert not await scene.is_refused(scene.suspect)


async def test_connections_to_a_server_of_a_removed_root_are_closed_and_not_reopened(scene: RootsScene) -> None:
    node = scene.client.node
    neighbour = await scene.mesh.pod("neighbour", node=1)
    scene.give(scene.server, scene.goes, scene.both)
    async with (
        scene.open_connection(scene.client) as (reader, _),
        scene.open_connection(neighbour) as (other, writer),
    ):
        scene.give(scene.client, scene.stays, scene.stays.roots)
        await breaks(reader, within_s=1)
        line = await node.logged(error=LIVE, direction="outbound")
        assert line["dst.identity"] == scene.server.identity
        writer.write(b"after")
        assert await other.readexactly(5) == b"after", "from another node, which still trusts the root"
    assert node.metric("culvert_connections_untrusted", reporter="source") == 1
    assert await scene.is_refused(scene.client)
    scene.give(scene.server, scene.stays, scene.both)
    assert not await scene.is_refused(scene.client)


async def test_a_withdrawn_certificate_still_gets_new_roots(scene: RootsScene) -> None:
    """It is used while it is valid, and must not trust roots that the other certificates no longer trust."""
    host = Certificates(scene.server.node.engine, _unreachable, NodeInfo(id="test"))
    name = scene.server.identity
    host.want(name)
    roots = [sds.TrustBundle(pem).encode(names.ROOT_SECRET_NAME) for pem in (scene.both, scene.stays.roots)]
    pair = sds.KeyPair(*scene.stays.issue(name)).encode(name)
    first = [(names.ROOT_SECRET_NAME, "1", roots[0]), (name, "1", pair)]
    assert await host.on_update(names.SECRET_TYPE, first, []) == []
    assert await host.on_update(names.SECRET_TYPE, [], [name]) == []
    async with scene.others_are_served():
        assert not await scene.is_refused(scene.suspect)
        assert await host.on_update(names.SECRET_TYPE, [(names.ROOT_SECRET_NAME, "2", roots[1])], []) == []
        assert await scene.is_refused(scene.suspect)


def _unreachable() -> NoReturn:
    raise AssertionError("nothing is connected here")


async def test_a_tunnel_of_a_removed_root_gets_goaway_and_closes_with_or_without_streams(scene: RootsScene) -> None:
    for opens in (True, False):
        scene.give(scene.server, scene.stays, scene.both)
        chain, key = scene.goes.issue(scene.outsider.identity)
        async with scene.attack(context=attacker.tls_context(chain, key, scene.stays.roots)) as attack:
            if opens:
                attack.connect(1, scene.authority)
                await attack.answer(1)
            assert await attack.is_alive()
            began = time.monotonic()
            scene.give(scene.server, scene.stays, scene.stays.roots)
            assert await attack.hung_up(within_s=1)
            assert time.monotonic() - began < 1
            assert attack.goaway == 0
