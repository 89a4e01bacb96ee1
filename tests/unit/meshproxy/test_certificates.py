"""Secrets on their way to the engine."""

import pytest

from meshapi import names
from meshapi.proto import engine_pb2
from meshengine import Engine
from meshkit.xds import sds
from meshkit.xds.client import NodeInfo
from meshproxy.certificates import Certificates
from tests.support.authority import TestAuthority
from tests.support.certificates import Issuer, IssuesAs
from tests.support.taking import TakingEngine

WEB = "spiffe://cluster.local/ns/shop/sa/web"


@pytest.fixture
def engine():
    made = Engine(engine_pb2.EngineConfig(worker_threads=1).SerializeToString())
    yield made
    made.close()


@pytest.fixture
def taking(engine: Engine) -> TakingEngine:
    return TakingEngine(engine)


@pytest.fixture
def certificates(taking: TakingEngine) -> Certificates:
    def connect():
        raise AssertionError("nothing is connected here")

    made = Certificates(taking, connect, NodeInfo(id="test"))
    made.want(WEB)
    return made


async def test_a_restarted_agent_without_roots_and_certificates_is_tolerated(certificates: Certificates) -> None:
    """A restarted agent may have neither roots nor certificates; ztunnel used to exit with an error then."""
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

    async def rejected(bundle: sds.TrustBundle) -> list[str]:
        body = bundle.encode(names.ROOT_SECRET_NAME)
        refused = await certificates.on_update(names.SECRET_TYPE, [(names.ROOT_SECRET_NAME, "1", body)], [])
        return [one.reason for one in refused]

    assert await rejected(sds.TrustBundle(authority.roots, good)) == []
    roots = authority.roots + TestAuthority().roots
    (reason,) = await rejected(
        sds.TrustBundle(roots, good + b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n")
    )
    assert "revocation list 2" in reason
    assert (certificates._roots, certificates._crl) == (roots, good)
    assert await rejected(sds.TrustBundle(roots)) == []
    assert certificates._crl == b""


async def test_bad_roots_are_refused_and_certificates_go_on_with_the_good_ones(certificates: Certificates) -> None:
    """They used to replace the roots of every later certificate, none of which could be used then."""
    authority = TestAuthority()

    async def rejected(name: str, secret: sds.KeyPair | sds.TrustBundle) -> list[str]:
        refused = await certificates.on_update(names.SECRET_TYPE, [(name, "1", secret.encode(name))], [])
        return [one.name for one in refused]

    assert await rejected(names.ROOT_SECRET_NAME, sds.TrustBundle(authority.roots)) == []
    assert await rejected(names.ROOT_SECRET_NAME, sds.TrustBundle(b"no roots")) == [names.ROOT_SECRET_NAME]
    assert await rejected(WEB, sds.KeyPair(*authority.issue(WEB))) == []


async def test_an_invalid_certificate_is_rejected_and_neither_the_last_good_one_nor_new_roots_are_lost(
    certificates: Certificates, taking: TakingEngine
) -> None:
    """What the engine makes of both is tested in ``engine/crates/worker``."""
    authority, other = TestAuthority(), TestAuthority()
    (chain, key), (_, wrong) = authority.issue(WEB), other.issue(WEB)
    first = [(names.ROOT_SECRET_NAME, "1", sds.TrustBundle(authority.roots + other.roots).encode("")),
             (WEB, "1", sds.KeyPair(chain, key).encode(""))]  # fmt: skip
    assert await certificates.on_update(names.SECRET_TYPE, first, []) == []
    second = [(WEB, "2", sds.KeyPair(chain, wrong).encode("")),
              (names.ROOT_SECRET_NAME, "2", sds.TrustBundle(authority.roots).encode(""))]  # fmt: skip
    assert [one.name for one in await certificates.on_update(names.SECRET_TYPE, second, [])] == [WEB]
    assert (taking.pairs[WEB], taking.roots) == ((chain, key), authority.roots)
