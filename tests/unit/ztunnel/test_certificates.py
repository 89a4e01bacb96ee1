"""Secrets on their way to the engine."""

import pytest

from meshapi import names
from meshapi.proto import engine_pb2
from meshengine import Engine
from meshkit.xds import sds
from meshkit.xds.client import NodeInfo
from tests.support.authority import TestAuthority
from tests.support.certificates import Issuer, IssuesAs
from ztunnel.certificates import Certificates

WEB = "spiffe://cluster.local/ns/shop/sa/web"


@pytest.fixture
def engine():
    made = Engine(engine_pb2.EngineConfig(cores=1).SerializeToString())
    yield made
    made.close()


@pytest.fixture
def certificates(engine: Engine) -> Certificates:
    def connect():
        raise AssertionError("nothing is connected here")

    return Certificates(engine, connect, NodeInfo(id="test"))


async def test_an_agent_that_has_just_started_and_has_no_roots_yet_does_no_harm(certificates: Certificates) -> None:
    """A restarted agent may say that it has neither roots nor certificates; ztunnel went down with an error then."""
    authority = TestAuthority()
    chain, key = authority.issue(WEB)
    roots = sds.TrustBundle(authority.roots).encode(names.ROOT_SECRET_NAME)
    pair = sds.KeyPair(chain, key).encode(WEB)
    upserts = [(names.ROOT_SECRET_NAME, "1", roots), (WEB, "1", pair)]
    assert await certificates.on_update(names.SECRET_TYPE, upserts, []) == []
    assert await certificates.on_update(names.SECRET_TYPE, [], [names.ROOT_SECRET_NAME, WEB, "nobody"]) == []
    # The same certificate again is taken over with the roots that were kept.
    assert await certificates.on_update(names.SECRET_TYPE, [(WEB, "2", pair)], []) == []
    assert certificates._roots == authority.roots


async def test_a_bad_secret_is_refused_by_name(certificates: Certificates) -> None:
    refused = await certificates.on_update(names.SECRET_TYPE, [(WEB, "1", b"\xff")], [])
    assert [one.name for one in refused] == [WEB]


async def test_bad_revocation_lists_are_refused_and_neither_the_good_ones_nor_new_roots_are_lost(
    certificates: Certificates, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = IssuesAs(Issuer.root())
    good = authority.issuer.revoking(7)

    async def told(bundle: sds.TrustBundle) -> list[str]:
        body = bundle.encode(names.ROOT_SECRET_NAME)
        refused = await certificates.on_update(names.SECRET_TYPE, [(names.ROOT_SECRET_NAME, "1", body)], [])
        return [one.reason for one in refused]

    assert await told(sds.TrustBundle(authority.roots, good)) == []
    roots = authority.roots + TestAuthority().roots
    (reason,) = await told(sds.TrustBundle(roots, good + b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"))
    assert "revocation list 2" in reason
    assert (certificates._roots, certificates._crl) == (roots, good)
    assert await told(sds.TrustBundle(roots)) == []
    assert certificates._crl == b""
