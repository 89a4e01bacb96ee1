"""Files that are replaced while they are followed."""

import asyncio
from pathlib import Path

from meshkit import files
from tests.support.waiting import until


async def test_each_content_is_reported_once_and_a_missing_file_is_empty(tmp_path: Path) -> None:
    file = tmp_path / "projected" / "root-cert.pem"
    seen: list[bytes | OSError] = []

    async def follow() -> None:
        async for content in files.follow(file, poll_s=0.001):
            seen.append(content)  # noqa: PERF401  # it never ends

    following = asyncio.create_task(follow())
    await until(lambda: seen == [b""])
    file.parent.mkdir()
    file.write_bytes(b"one")
    await until(lambda: seen[-1] == b"one")
    file.unlink()
    await until(lambda: seen[-1] == b"")
    file.mkdir()
    await until(lambda: isinstance(seen[-1], IsADirectoryError))
    file.rmdir()
    file.write_bytes(b"two")
    await until(lambda: seen[-1] == b"two")
    following.cancel()
    assert len(seen) <= 7, "what has not changed is not reported again"


def test_a_replaced_file_has_the_mode_that_is_wanted_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "admin.key"
    file.write_bytes(b"a longer one before")
    files.replace(file, b"key", mode=0o600)
    assert (file.read_bytes(), file.stat().st_mode & 0o777) == (b"key", 0o600)
    assert [one.name for one in tmp_path.iterdir()] == ["admin.key"]
