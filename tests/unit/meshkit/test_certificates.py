"""Certificates of the node's workloads: request, renewal, failure, serving."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from meshapi import names
from meshapi.identity import SpiffeId
from meshkit import files
from meshkit.secrets import roots
from meshkit.secrets.ca_client import CaUnavailable
from meshkit.secrets.manager import SecretManager
from meshkit.secrets.request import BadCertificate, Issued, make_request, read_answer
from meshkit.xds import sds
from tests.support.authority import TestAuthority

WEB = SpiffeId("cluster.local", "shop", "web")


class FakeIssuer:
    """A CA with configurable answers."""

    def __init__(self, life: timedelta = timedelta(hours=24)) -> None:
        self.life = life
        self.fail = 0
        self.calls = 0
        self.roots = b"roots-1"

    async def issue(self, identity: SpiffeId) -> Issued:
        self.calls += 1
        if self.fail:
            self.fail -= 1
            raise CaUnavailable("down")
        now = datetime.now(UTC)
        return Issued(f"chain {identity} {self.calls}".encode(), b"key", self.roots, now, now + self.life)


async def until(condition, within_s: float = 3) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
async def keeper():
    made = SecretManager(FakeIssuer())
    yield made
    await made.close()


async def test_a_wanted_certificate_is_requested_once_and_served(keeper: SecretManager) -> None:
    changes: list[set[str]] = []
    keeper.watch(lambda _, changed: changes.append(set(changed)))
    keeper.acquire(WEB)
    keeper.acquire(WEB)
    assert await keeper.ready(WEB, 1)
    assert keeper._issuer.calls == 1
    assert changes == [{str(WEB), names.ROOT_SECRET_NAME}]
    pair = sds.decode(keeper.lookup(names.SECRET_TYPE, str(WEB)).body)
    assert pair == sds.KeyPair(b"chain " + str(WEB).encode() + b" 1", b"key")
    roots = sds.decode(keeper.lookup(names.SECRET_TYPE, names.ROOT_SECRET_NAME).body)
    assert roots == sds.TrustBundle(b"roots-1")
    keeper.release(WEB)
    assert keeper.lookup(names.SECRET_TYPE, str(WEB)) is not None
    keeper.release(WEB)
    assert keeper.lookup(names.SECRET_TYPE, str(WEB)) is None


async def test_only_wanted_identities_are_served(keeper: SecretManager) -> None:
    keeper.acquire(WEB)
    assert await keeper.ready(WEB, 1)
    assert keeper.lookup(names.SECRET_TYPE, "spiffe://cluster.local/ns/shop/sa/other") is None
    assert not await keeper.ready(SpiffeId("cluster.local", "shop", "other"), 0.01)


async def test_requests_to_a_failing_ca_are_retried() -> None:
    issuer = FakeIssuer()
    issuer.fail = 2
    keeper = SecretManager(issuer)
    keeper.acquire(WEB)
    assert not await keeper.ready(WEB, 0.01)
    assert await keeper.ready(WEB, 3)
    assert keeper.failures == 2
    await keeper.close()


async def test_renewal_comes_at_half_of_the_life_and_keeps_the_old_one_on_failure() -> None:
    issuer = FakeIssuer(life=timedelta(seconds=2))
    keeper = SecretManager(issuer)
    keeper.acquire(WEB)
    assert await keeper.ready(WEB, 1)
    issuer.fail = 1
    first = keeper.lookup(names.SECRET_TYPE, str(WEB))
    await until(lambda: keeper.failures == 1)
    assert keeper.lookup(names.SECRET_TYPE, str(WEB)) == first
    await until(lambda: issuer.calls == 3)
    await until(lambda: keeper.lookup(names.SECRET_TYPE, str(WEB)).version != first.version)
    await keeper.close()


@pytest.mark.parametrize("spread", [-0.1, 0.0, 0.1])
async def test_the_renewal_is_spread_around_half_of_the_life(spread: float) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    keeper = SecretManager(FakeIssuer(), now=lambda: now, uniform=lambda _, __: spread)
    issued = Issued(b"", b"", b"", now, now + timedelta(hours=24))
    assert keeper._renewal_delay_s(issued) == pytest.approx(12 * 3600 + spread / 2 * 24 * 3600)


def test_requests_have_one_critical_name_and_no_subject() -> None:
    from cryptography import x509

    csr = x509.load_pem_x509_csr(make_request(WEB).csr_pem.encode())
    assert len(csr.subject) == 0
    extension = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert extension.critical
    assert extension.value.get_values_for_type(x509.UniformResourceIdentifier) == [str(WEB)]


def test_an_answer_for_another_identity_or_key_is_refused() -> None:
    authority = TestAuthority()
    roots = authority.roots.decode()
    request = make_request(WEB)
    other, _ = authority.issue("spiffe://cluster.local/ns/shop/sa/other")
    with pytest.raises(BadCertificate, match="answered for"):
        read_answer(WEB, request, [other.decode(), roots])
    ours, _ = authority.issue(str(WEB))
    with pytest.raises(BadCertificate, match="another key"):
        read_answer(WEB, request, [ours.decode(), roots])
    with pytest.raises(BadCertificate, match="1 part"):
        read_answer(WEB, request, [ours.decode()])
    with pytest.raises(BadCertificate, match="cannot be read"):
        read_answer(WEB, request, ["junk", roots])


async def test_other_roots_renew_all_certificates_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks, read = 0, files.read

    def counted(file: Path) -> bytes | OSError:
        nonlocal looks
        found = read(file)
        looks += 1
        return found

    async def looked_at() -> None:
        """Wait until the file has been read twice: the first may have begun before its last change."""
        before = looks
        await until(lambda: looks >= before + 2)

    monkeypatch.setattr(files, "read", counted)
    issuer = FakeIssuer()
    keeper = SecretManager(issuer, uniform=lambda low, high: low)
    keeper.acquire(WEB)
    keeper.acquire(SpiffeId("cluster.local", "shop", "db"))
    await until(lambda: issuer.calls == 2)
    file = tmp_path / "root-cert.pem"
    file.write_bytes(b"roots-1")
    following = asyncio.create_task(roots.follow(file, keeper.renew_all, poll_s=0.01))
    try:
        await looked_at()
        file.unlink()
        await looked_at()
        file.write_bytes(b"roots-1")
        await looked_at()
        assert issuer.calls == 2, "the same roots are no reason"
        issuer.roots = b"roots-1 roots-2"
        file.write_bytes(b"roots-1 roots-2")
        await until(lambda: issuer.calls == 4)
        held = sds.decode(keeper.lookup(names.SECRET_TYPE, names.ROOT_SECRET_NAME).body)
        assert held == sds.TrustBundle(b"roots-1 roots-2")
        await looked_at()
        assert issuer.calls == 4
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await keeper.close()
