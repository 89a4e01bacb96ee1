"""The file of revocation lists on its way to the node's SDS server."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from meshapi import names
from meshkit.secrets.manager import SecretManager
from meshkit.secrets.revocation import RevocationFile
from meshkit.xds import sds
from tests.support.certificates import Issuer
from tests.support.waiting import until
from tests.unit.meshkit.test_certificates import WEB, FakeIssuer


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer.root()


@pytest.fixture
async def keeper() -> AsyncIterator[SecretManager]:
    made = SecretManager(FakeIssuer())
    made.acquire(WEB)
    assert await made.ready(WEB, 1)
    yield made
    await made.close()


def served(keeper: SecretManager) -> bytes:
    found = keeper.lookup(names.SECRET_TYPE, names.ROOT_SECRET_NAME)
    assert found is not None
    bundle = sds.decode(found.body)
    assert isinstance(bundle, sds.TrustBundle)
    assert bundle.roots_pem == b"roots-1"
    return bundle.crl_pem


def project(folder: Path, content: bytes | None) -> None:
    """Change the file as the kubelet changes a config map's volume: a new folder, then one symbolic link."""
    version = folder / f"..{uuid.uuid4()}"
    version.mkdir()
    if content is not None:
        (version / names.CRL_KEY).write_bytes(content)
    link = folder / "..data_tmp"
    link.symlink_to(version.name)
    link.rename(folder / "..data")
    visible = folder / names.CRL_KEY
    if content is None:
        visible.unlink(missing_ok=True)
    elif not visible.is_symlink():
        visible.symlink_to(f"..data/{names.CRL_KEY}")


async def test_lists_are_served_with_the_roots_until_their_file_is_removed(
    keeper: SecretManager, issuer: Issuer, tmp_path: Path
) -> None:
    changes: list[set[str]] = []
    keeper.watch(lambda _, changed: changes.append(set(changed)))
    file = RevocationFile(tmp_path / names.CRL_KEY, keeper.revoke)
    following = asyncio.create_task(file.follow(poll_s=0.01))
    try:
        for lists in ([issuer.revoking(1)], [issuer.revoking(1, 2), issuer.intermediate(1).revoking(3)], []):
            pem = b"".join(lists)
            project(tmp_path, pem or None)
            await until(lambda pem=pem: served(keeper) == pem)
            assert file.lists == len(lists)
        assert changes == [{names.ROOT_SECRET_NAME}] * 3
        assert file.failures == 0
    finally:
        following.cancel()


async def test_an_invalid_file_changes_nothing_and_is_logged_once(
    keeper: SecretManager, issuer: Issuer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = issuer.revoking(1)
    file = RevocationFile(tmp_path / names.CRL_KEY, keeper.revoke)
    project(tmp_path, good)
    await file.look()
    capsys.readouterr()
    for content in (b"no list", good + good[:100]):
        project(tmp_path, content)
        for _ in range(3):
            await file.look()
        logged = "".join(capsys.readouterr())
        assert logged.count("cannot be used, those in force stay") == 1
        assert str(tmp_path / names.CRL_KEY) in logged
        assert served(keeper) == good
    # A folder in its place cannot be read at all.
    (tmp_path / names.CRL_KEY).unlink()
    (tmp_path / names.CRL_KEY).mkdir()
    for _ in range(3):
        await file.look()
    assert "".join(capsys.readouterr()).count("cannot be used") == 1
    assert served(keeper) == good
    assert (file.failures, file.lists) == (3, 1)
    (tmp_path / names.CRL_KEY).rmdir()
    both = good + issuer.revoking(2)
    project(tmp_path, both)
    await file.look()
    assert served(keeper) == both


async def test_lists_are_loaded_before_the_first_roots_are_served(issuer: Issuer, tmp_path: Path) -> None:
    lists = issuer.revoking(1)
    (tmp_path / names.CRL_KEY).write_bytes(lists)
    keeper = SecretManager(FakeIssuer())
    seen: list[bytes] = []
    keeper.watch(lambda _, changed: seen.append(served(keeper)) if names.ROOT_SECRET_NAME in changed else None)
    await RevocationFile(tmp_path / names.CRL_KEY, keeper.revoke).look()
    assert seen == []
    keeper.acquire(WEB)
    assert await keeper.ready(WEB, 1)
    await keeper.close()
    assert seen == [lists]
