"""Readers of the access log on the node: what they get, and that they hold up nobody."""

import asyncio
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from meshproxy import access_log_feed
from meshproxy.access_log_feed import AccessLogFeed
from tests.support.waiting import until


@pytest.fixture
async def feed(tmp_path: Path) -> AsyncIterator[tuple[AccessLogFeed, Path]]:
    path = tmp_path / "access-log.sock"
    made = AccessLogFeed(path)
    task = asyncio.create_task(made.run())
    await until(path.exists)
    yield made, path
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def read_lines(feed: AccessLogFeed, reader: asyncio.StreamReader) -> bytes:
    """Offer a line until the reader is known to the server, and return the first."""

    async def offer() -> None:
        while True:
            feed.offer(b"line\n")
            await asyncio.sleep(0.01)

    offering = asyncio.create_task(offer())
    try:
        return await asyncio.wait_for(reader.readline(), 5)
    finally:
        offering.cancel()


async def test_every_reader_gets_the_lines_and_only_root_may_read(feed: tuple[AccessLogFeed, Path]) -> None:
    made, path = feed
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    connections = [await asyncio.open_unix_connection(path) for _ in range(2)]
    for reader, _ in connections:
        assert await read_lines(made, reader) == b"line\n"
    for _, writer in connections:
        writer.close()


async def test_a_reader_that_does_not_read_is_disconnected_and_holds_up_nobody(
    feed: tuple[AccessLogFeed, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, path = feed
    monkeypatch.setattr(access_log_feed, "_MAX_UNREAD_BYTES", 1000)
    reader, writer = await asyncio.open_unix_connection(path, limit=10)
    assert await read_lines(made, reader) == b"line\n"
    for _ in range(2000):
        made.offer(b"x" * 1000)
    await until(lambda: not made.readers)
    writer.close()


async def test_a_socket_that_cannot_be_made_ends_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    made = AccessLogFeed(tmp_path / "none" / "access-log.sock")
    await made.run()
    made.offer(b"line\n")
    assert made.readers == 0


async def test_a_process_that_follows_takes_the_socket_over(feed: tuple[AccessLogFeed, Path]) -> None:
    made, path = feed
    successor = AccessLogFeed(path)
    task = asyncio.create_task(successor.run())
    connected: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def connect() -> None:
        while not successor.readers:
            connected.append(await asyncio.open_unix_connection(path))
            await asyncio.sleep(0.01)

    await asyncio.wait_for(connect(), 5)
    assert await read_lines(successor, connected[-1][0]) == b"line\n"
    for _, writer in connected:
        writer.close()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert made.readers == 0
    assert not path.exists(), "nothing is left on the node"


async def test_a_process_that_ends_leaves_its_successors_socket_alone(tmp_path: Path) -> None:
    path = tmp_path / "access-log.sock"
    tasks = []
    for _ in range(2):
        before = path.stat().st_ino if path.exists() else 0
        tasks.append(asyncio.create_task(AccessLogFeed(path).run()))
        await until(lambda before=before: path.exists() and path.stat().st_ino != before)  # type: ignore[misc]
    for task, is_left in zip(tasks, (True, False), strict=True):
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert path.exists() is is_left
