"""The file that the state of the mesh is kept in: its content is restored, and a damaged file is ignored."""

import asyncio
import os
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from meshapi import names
from meshproxy.snapshot import Snapshot, Upsert
from tests.support.waiting import until
from ztunnel.xds import SNAPSHOT_TYPES

WEB = ("Kubernetes//Pod/shop/web", "1", b"\0web")
API = ("Kubernetes//Pod/shop/api", "7", b"api")
ODD = ("Kubernetes//Pod/shop/ä", "ü2", b"")
DENY = ("shop/deny", "3", b"deny")
SETTINGS = ("mesh", "9", b"settings")

_made: list[Snapshot] = []


def made(path: Path, **settings: float) -> Snapshot:
    """A snapshot that is closed after the test."""
    _made.append(Snapshot(path, SNAPSHOT_TYPES, **settings))
    return _made[-1]


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while _made:
        _made.pop().close()


class Taken:
    """The resources of a restored file, in order."""

    def __init__(self, refuse: str = "") -> None:
        self.resources: list[tuple[str, Upsert]] = []
        self._refuse = refuse

    def __call__(self, type_url: str, upserts: list[Upsert]) -> list[str]:
        self.resources += [(type_url, one) for one in upserts if one[0] != self._refuse]
        return [name for name, _, _ in upserts if name == self._refuse]


async def restored(path: Path, refuse: str = "") -> tuple[list[tuple[str, Upsert]], Mapping[str, Mapping[str, str]]]:
    taken = Taken(refuse)
    snapshot = made(path)
    held = await snapshot.restore(taken)
    return taken.resources, held


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.snapshot"


async def written(path: Path, *upserts: Upsert) -> Snapshot:
    snapshot = made(path)
    snapshot.note(names.ADDRESS_TYPE, upserts, [])
    await snapshot.write()
    return snapshot


async def test_recorded_resources_are_restored_with_policies_before_workloads(path: Path) -> None:
    snapshot = await written(path, WEB, ODD)
    snapshot.note(names.AUTHORIZATION_TYPE, [DENY], [])
    snapshot.note(names.MESH_CONFIG_TYPE, [SETTINGS], [])
    await snapshot.write()
    resources, held = await restored(path)
    assert resources == [
        (names.AUTHORIZATION_TYPE, DENY), (names.ADDRESS_TYPE, WEB), (names.ADDRESS_TYPE, ODD),
        (names.MESH_CONFIG_TYPE, SETTINGS),
    ]  # fmt: skip
    assert held == {
        names.AUTHORIZATION_TYPE: {DENY[0]: "3"},
        names.ADDRESS_TYPE: {WEB[0]: "1", ODD[0]: "ü2"},
        names.MESH_CONFIG_TYPE: {SETTINGS[0]: "9"},
    }
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


async def test_later_writes_replace_remove_and_keep(path: Path) -> None:
    snapshot = await written(path, WEB, API, ODD)
    newer = (API[0], "8", b"a longer message than before")
    snapshot.note(names.ADDRESS_TYPE, [newer], [ODD[0], "never heard of"])
    await snapshot.write()
    snapshot.note(names.ADDRESS_TYPE, [DENY], [])
    await snapshot.write()
    _, held = await restored(path)
    assert held[names.ADDRESS_TYPE] == {WEB[0]: "1", API[0]: "8", DENY[0]: "3"}


async def test_a_restarted_process_writes_on_from_what_it_restored(path: Path) -> None:
    await written(path, WEB, API)
    snapshot = made(path)
    await snapshot.restore(Taken())
    # An upgrade's other process may have replaced or removed the file meanwhile: ours is what counts for us.
    path.unlink()
    snapshot.note(names.ADDRESS_TYPE, [ODD], [WEB[0]])
    await snapshot.write()
    _, held = await restored(path)
    assert held[names.ADDRESS_TYPE] == {API[0]: "7", ODD[0]: "ü2"}


async def test_a_resource_that_is_rejected_at_restore_is_not_kept(path: Path) -> None:
    await written(path, WEB, API)
    snapshot = made(path)
    held = await snapshot.restore(Taken(refuse=WEB[0]))
    assert held[names.ADDRESS_TYPE] == {API[0]: "7"}
    await snapshot.write()
    assert (await restored(path))[1][names.ADDRESS_TYPE] == {API[0]: "7"}


@pytest.mark.parametrize("damage", ["bit", "short", "long", "empty", "other"])
async def test_a_damaged_file_is_ignored_and_written_anew(path: Path, damage: str) -> None:
    await written(path, WEB, API)
    content = path.read_bytes()
    flipped = bytes([content[40] ^ 1])
    path.write_bytes(
        {
            "bit": content[:40] + flipped + content[41:],
            "short": content[:-20],
            "long": content + b"x",
            "empty": b"",
            "other": b"x" * 100,
        }[damage]
    )
    snapshot = made(path)
    taken = Taken()
    assert await snapshot.restore(taken) == {}
    assert taken.resources == []
    snapshot.note(names.ADDRESS_TYPE, [API], [])
    await snapshot.write()
    assert (await restored(path))[1][names.ADDRESS_TYPE] == {API[0]: "7"}


async def test_an_unfinished_file_of_a_crash_is_cleared_away_and_one_being_written_is_not(path: Path) -> None:
    await written(path, WEB)
    left, fresh = (path.with_name(f".{path.name}.{end}") for end in ("0123", "4567"))
    left.touch()
    os.utime(left, (1, 1))
    fresh.touch()
    await restored(path)
    assert (left.exists(), fresh.exists()) == (False, True)


async def test_without_a_snapshot_file_nothing_is_restored(path: Path) -> None:
    assert await restored(path) == ([], {})


async def test_changes_are_written_by_themselves_and_not_lost_when_writing_fails(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    path = folder / "state.snapshot"
    snapshot = made(path, collect_s=0.01)
    task = asyncio.create_task(snapshot.run())
    snapshot.note(names.ADDRESS_TYPE, [WEB], [])
    await snapshot.write()  # the folder is not there
    folder.mkdir()
    snapshot.note(names.ADDRESS_TYPE, [API], [])
    await until(path.exists)
    assert (await restored(path))[1][names.ADDRESS_TYPE] == {WEB[0]: "1", API[0]: "7"}
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_hundred_thousand_workloads_are_bounded_in_size_and_time(path: Path) -> None:
    body = bytes(300)
    snapshot = await written(path, *((f"Kubernetes//Pod/shop/pod-{number}", "1", body) for number in range(100_000)))
    assert path.stat().st_size < 40_000_000
    snapshot.note(names.ADDRESS_TYPE, [("Kubernetes//Pod/shop/pod-5", "2", body)], [])
    began = time.monotonic()
    await snapshot.write()
    rewritten_s = time.monotonic() - began
    began = time.monotonic()
    _, held = await restored(path)
    restored_s = time.monotonic() - began
    print(f"100,000 workloads: one change written in {rewritten_s:.2f} s, restored in {restored_s:.2f} s")
    assert len(held[names.ADDRESS_TYPE]) == 100_000
    # Ten times what a slow machine needs: the bound is there to catch what grows with the square.
    assert rewritten_s < 10
    assert restored_s < 10
