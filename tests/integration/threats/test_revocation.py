"""Threat ``revocation`` (RUSTSEC-2026-0049, 0104): a revoked certificate is refused, and its
open connections are closed.

The content of lists, and the handling of damaged ones, is tested where they are parsed (``engine/crates/tls``).
"""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from cryptography import x509

from meshapi.proto import engine_pb2
from meshengine import ConfigRejected
from tests.integration.threats.conftest import PORT, Scene, breaks
from tests.support import attacker, namespaced
from tests.support.certificates import Issuer, IssuesAs
from tests.support.waiting import until

pytestmark = pytest.mark.root

LIVE = "connection closed: peer certificate revoked by CRL"
REFUSED = "TLS handshake failed: invalid peer certificate: Revoked"


class Below(IssuesAs):
    """An authority below the root, as ``cacerts`` has it."""

    def __init__(self) -> None:
        self.root = Issuer.root()
        super().__init__(self.root.intermediate(1))

    @property
    def roots(self) -> bytes:
        return self.root.pem

    def issue(self, uri: str, **more: object) -> tuple[bytes, bytes]:
        chain, key = super().issue(uri, **more)
        return chain + self.issuer.pem, key

    def revoking(self, *pods: namespaced.Pod) -> bytes:
        return self.issuer.revoking(*(self.serials[pod.identity] for pod in pods))


@dataclass
class RevocationScene(Scene):
    """``suspect`` is a second client, on the other's node."""

    suspect: namespaced.Pod
    authority_below: Below

    def revoke(self, lists: bytes, *nodes: namespaced.Node) -> None:
        for node in nodes or self.mesh.nodes:
            node.engine.set_revocation_lists(lists)


@pytest.fixture
async def scene() -> AsyncIterator[RevocationScene]:
    below = Below()
    async with namespaced.mesh(authority=below) as mesh:
        server = await mesh.pod("server", node=1)
        client, suspect = await mesh.pod("client"), await mesh.pod("suspect")
        outsider = await mesh.pod("outsider", captured=False)
        yield RevocationScene(mesh, server, client, outsider, await server.serve_peer(PORT), suspect, below)


def counted(node: namespaced.Node, reporter: str) -> int:
    families = engine_pb2.MetricFamilies.FromString(node.engine.metrics()).families
    family = next(one for one in families if one.name == "istio_crl_policy_rejections")
    return next(sample.value for sample in family.samples if list(sample.label_values) == [reporter])


async def test_only_the_revoked_client_is_closed_and_refused(scene: RevocationScene) -> None:
    server = scene.server.node
    async with scene.others_are_served(), scene.open_connection(scene.suspect) as (reader, _):
        scene.revoke(scene.authority_below.revoking(scene.suspect), server)
        await breaks(reader, within_s=1)
        line = await server.logged(error=LIVE, direction="inbound")
        assert line["src.identity"] == scene.suspect.identity
        assert counted(server, "destination") == 1
        assert await scene.is_refused(scene.suspect)
        await server.logged(error=REFUSED, direction="inbound")
        assert counted(server, "destination") >= 2
        await until(lambda: scene.metric("istio_tcp_connections_closed", response_flags="CERT_REVOKED") >= 2)
        assert counted(server, "source") == 0
    scene.revoke(b"", server)
    assert not await scene.is_refused(scene.suspect)


async def test_connections_to_a_revoked_server_are_closed_and_not_reopened(scene: RevocationScene) -> None:
    node = scene.client.node
    other = await scene.mesh.pod("other", node=1)
    await other.serve_peer(PORT)
    async with scene.open_connection(scene.client) as (reader, _):
        scene.revoke(scene.authority_below.revoking(scene.server), node)
        await breaks(reader, within_s=1)
        line = await node.logged(error=LIVE, direction="outbound")
        assert line["dst.identity"] == scene.server.identity
    assert await scene.is_refused(scene.client)
    await node.logged(error=REFUSED, direction="outbound")
    assert counted(node, "source") == 2
    assert scene.metric("istio_crl_policy_rejections", reporter="destination") == 0, "it has no list and sees no fault"
    assert await scene.client.request(other.ip, PORT) == f"{scene.client.ip} hello".encode()
    scene.revoke(b"", node)
    assert not await scene.is_refused(scene.client)


async def test_revoking_an_intermediate_revokes_all_certificates_below_it(scene: RevocationScene) -> None:
    below = scene.authority_below
    lists = below.root.revoking(below.issuer.certificate.serial_number)
    async with scene.open_connection(scene.client) as (first, _), scene.open_connection(scene.suspect) as (second, _):
        scene.revoke(lists)
        await asyncio.gather(breaks(first, within_s=1), breaks(second, within_s=1))
    assert await scene.is_refused(scene.client)
    assert await scene.is_refused(scene.suspect)
    scene.revoke(below.revoking())
    assert not await scene.is_refused(scene.client)


async def test_an_invalid_list_is_rejected_and_the_last_good_one_stays_in_force(scene: RevocationScene) -> None:
    good = scene.authority_below.revoking(scene.suspect)
    scene.revoke(good)
    async with scene.others_are_served():
        for bad in (b"no list", good[:-30], good + scene.authority_below.issuer.revoking(1, extensions=[])):
            with pytest.raises(ConfigRejected, match="revocation list"):
                scene.revoke(bad)
        assert await scene.is_refused(scene.suspect)


async def test_a_list_that_its_issuer_did_not_sign_closes_no_open_connection(scene: RevocationScene) -> None:
    """New connections are refused rather than accepted unchecked; the control plane rejects such a list."""
    serial = scene.authority_below.serials[scene.suspect.identity]
    forged = scene.authority_below.issuer.revoking(serial, key=Issuer.root().key)
    async with scene.open_connection(scene.suspect) as (reader, writer):
        scene.revoke(forged)
        writer.write(b"after")
        assert await asyncio.wait_for(reader.readexactly(5), 3) == b"after"
        with pytest.raises((OSError, ConnectionError)):
            async with scene.attack():
                pass
        await scene.server.node.logged(
            error="TLS handshake failed: the revocation list of the peer's issuer cannot be used: "
            "InvalidCrlSignatureForPublicKey"
        )


async def test_a_revoked_tunnel_gets_goaway_and_closes_with_or_without_streams(scene: RevocationScene) -> None:
    below = scene.authority_below
    for opens in (True, False):
        chain, key = below.issue(scene.outsider.identity)
        async with scene.attack(context=attacker.tls_context(chain, key, scene.mesh.authority.roots)) as attack:
            if opens:
                attack.connect(1, scene.authority)
                await attack.answer(1)
            assert await attack.is_alive()
            began = time.monotonic()
            serial = x509.load_pem_x509_certificate(chain).serial_number
            scene.revoke(below.issuer.revoking(serial), scene.server.node)
            assert await attack.hung_up(within_s=1)
            assert time.monotonic() - began < 1
            assert attack.goaway == 0
    assert not await scene.is_refused(scene.client)


async def test_a_list_of_ten_thousand_entries_costs_an_open_tunnel_nothing(scene: RevocationScene) -> None:
    """A list is parsed once for all; tunnels that it does not name look up their serial numbers and go on."""
    serials = range(2**64, 2**64 + 10_000)
    async with scene.others_are_served():
        began = time.thread_time()  # the calls check the list, in this thread, before they return
        scene.revoke(scene.authority_below.issuer.revoking(*serials))
        assert time.thread_time() - began < 0.5 * len(scene.mesh.nodes)
    assert not await scene.is_refused(scene.suspect)
