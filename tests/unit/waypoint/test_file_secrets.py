"""Certificates and roots of files in the waypoint's pod, as its proxy gets them over SDS."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from meshapi import names
from meshkit.xds import sds
from tests.support.waiting import until
from waypoint.file_secrets import FileSecrets

POLL_S = 0.01


@pytest.fixture
async def secrets(tmp_path: Path) -> AsyncIterator[FileSecrets]:
    (tmp_path / "system.pem").write_bytes(b"system")
    made = FileSecrets(tmp_path / "system.pem")
    task = asyncio.create_task(made.follow(poll_s=POLL_S))
    yield made
    task.cancel()


def served(secrets: FileSecrets, name: str) -> sds.KeyPair | sds.TrustBundle | None:
    found = secrets.lookup(names.SECRET_TYPE, name)
    return None if found is None else sds.decode(found.body)


async def test_roots_are_those_of_the_file_the_system_or_a_file_and_its_revocation_list(
    secrets: FileSecrets, tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_bytes(b"roots")
    (tmp_path / "crl.pem").write_bytes(b"revoked")
    wanted = {
        f"file-root:{tmp_path}/ca.pem": sds.TrustBundle(b"roots"),
        f"file-root:{tmp_path}/ca.pem~{tmp_path}/crl.pem": sds.TrustBundle(b"roots", b"revoked"),
        "file-root:system": sds.TrustBundle(b"system"),
    }
    secrets.wanted(names.SECRET_TYPE, frozenset(wanted))
    await until(lambda: all(served(secrets, name) == secret for name, secret in wanted.items()))


async def test_a_certificate_that_is_replaced_is_announced(secrets: FileSecrets, tmp_path: Path) -> None:
    (tmp_path / "chain.pem").write_bytes(b"chain")
    (tmp_path / "key.pem").write_bytes(b"key")
    name = f"file-cert:{tmp_path}/chain.pem~{tmp_path}/key.pem"
    changes: list[frozenset[str]] = []
    secrets.watch(lambda _, changed: changes.append(changed))
    secrets.wanted(names.SECRET_TYPE, frozenset({name}))
    await until(lambda: served(secrets, name) == sds.KeyPair(b"chain", b"key"))
    (tmp_path / "chain.pem").write_bytes(b"renewed")
    await until(lambda: served(secrets, name) == sds.KeyPair(b"renewed", b"key"))
    assert changes == [frozenset({name})] * 2


async def test_files_that_come_late_are_served_and_those_that_go_stay_in_force(
    secrets: FileSecrets, tmp_path: Path
) -> None:
    file, name = tmp_path / "ca.pem", f"file-root:{tmp_path}/ca.pem"
    secrets.wanted(names.SECRET_TYPE, frozenset({name}))
    await asyncio.sleep(5 * POLL_S)
    assert served(secrets, name) is None
    file.write_bytes(b"roots")
    await until(lambda: served(secrets, name) == sds.TrustBundle(b"roots"))
    file.unlink()
    await asyncio.sleep(5 * POLL_S)
    assert served(secrets, name) == sds.TrustBundle(b"roots")


async def test_nothing_but_files_that_were_asked_for_is_served(secrets: FileSecrets) -> None:
    secrets.wanted(names.SECRET_TYPE, frozenset({"default", names.ROOT_SECRET_NAME, "file-cert:/etc/hostname"}))
    await asyncio.sleep(5 * POLL_S)
    assert secrets.all(names.SECRET_TYPE) == []
