"""A proxy process that is not ztunnel starts, is supervised and stops on ``meshproxy``, with few lines of its own."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from meshapi.identity import SpiffeId
from meshkit.linux import links, netns
from meshkit.secrets.manager import SecretManager
from meshkit.xds import sds, serving
from tests.support import empty_host
from tests.support.authority import TestAuthority
from tests.support.lab import ROOT
from tests.support.ports import free_port
from tests.support.waiting import scaled
from tests.support.ztunnels import LocalIssuer

IDENTITY = SpiffeId("cluster.local", "istio-system", "empty")


class Started:
    """One process, with its endpoints."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path, space: Path, ports: dict[str, int]) -> None:
        self.process = process
        self._log = log
        self._space = space
        self._ports = ports

    @property
    def log(self) -> str:
        return self._log.read_text()

    async def get(self, port: str, path: str, method: str = "GET") -> tuple[int, str]:
        request = urllib.request.Request(f"http://127.0.0.1:{self._ports[port]}{path}", method=method)
        return await asyncio.to_thread(netns.run, self._space, lambda: answer(request))

    async def becomes(self, status: int, text: str) -> None:
        """Wait for an answer of the readiness endpoint."""
        found: object = None
        try:
            async with asyncio.timeout(scaled(20)):
                while found != (status, text):
                    with contextlib.suppress(OSError):
                        found = await self.get("readiness_port", "/healthz/ready")
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"{found}; {self.log}") from None

    def worker(self) -> int:
        """The process that serves, a child of the one that was started."""
        pid = self.process.pid
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    async def ended(self) -> int:
        return await asyncio.wait_for(self.process.wait(), scaled(20))


def answer(request: urllib.request.Request) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(request, timeout=scaled(5)) as found:
            return found.status, found.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.fixture
def space() -> Iterator[Path]:
    """A network namespace for the process: it listens on the tunnel's port."""
    made = netns.create(f"cvh{uuid.uuid4().hex[:6]}")
    netns.run(made, lambda: links.set_up("lo"))
    yield made
    netns.delete(made.name)


@contextlib.asynccontextmanager
async def started(folder: Path, space: Path, **ports: int) -> AsyncIterator[Started]:
    given = {name: free_port() for name in ("admin_port", "metrics_port", "readiness_port")} | ports
    environment = os.environ | {name.upper(): str(port) for name, port in given.items()}
    environment |= {"NODE_NAME": "n1", "SDS_SOCKET": str(folder / "sds.sock"), "TERMINATION_GRACE_PERIOD_SECONDS": "6"}
    log = folder / "host.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            "nsenter", f"--net={space}", sys.executable, "-m", empty_host.__name__,
            cwd=ROOT, env=environment, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        yield Started(process, log, space, given)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def secrets(folder: Path) -> AsyncIterator[None]:
    """The node agent's SDS server, with a certificate for the host."""
    keeper = SecretManager(LocalIssuer(TestAuthority()))
    keeper.acquire(IDENTITY)
    async with serving.serve_unix(folder / "sds.sock", [sds.SecretDiscovery(keeper)]):
        yield
    await keeper.close()


def test_the_host_is_short() -> None:
    assert len(Path(empty_host.__file__).read_text().splitlines()) < 150


async def test_a_second_host_is_ready_with_its_certificate_and_stops_in_order(tmp_path: Path, space: Path) -> None:
    async with started(tmp_path, space) as host:
        await host.becomes(500, f"not ready, pending: certificate of {IDENTITY}\n")
        async with secrets(tmp_path):
            await host.becomes(200, "ready\n")
            status, page = await host.get("metrics_port", "/metrics")
            assert status == 200
            assert 'istio_build{component="empty",tag="' in page
            assert "empty_crashes_total 0.0" in page
            assert "# HELP istio_tcp_connections_opened" in page, "the engine's own"
            assert await host.get("admin_port", "/identity") == (200, str(IDENTITY))
            assert await host.get("admin_port", "/logging", "POST") == (200, "current log level is info\n")
            host.process.send_signal(signal.SIGTERM)
            assert await host.ended() == 0
            assert "drained" in host.log


async def test_a_second_host_that_crashes_is_started_again(tmp_path: Path, space: Path) -> None:
    async with started(tmp_path, space) as host, secrets(tmp_path):
        await host.becomes(200, "ready\n")
        os.kill(host.worker(), signal.SIGKILL)
        async with asyncio.timeout(scaled(20)):
            while "crashed, starting again" not in host.log:
                await asyncio.sleep(0.05)
        await host.becomes(200, "ready\n")
        assert "empty_crashes_total 1.0" in (await host.get("metrics_port", "/metrics"))[1]
        assert (await host.get("admin_port", "/quitquitquit", "POST"))[0] == 200
        assert await host.ended() == 0


async def test_a_second_host_whose_port_is_taken_ends_with_one_line(tmp_path: Path, space: Path) -> None:
    with netns.run(space, lambda: socket.create_server(("0.0.0.0", 0))) as taken:
        async with started(tmp_path, space, metrics_port=taken.getsockname()[1]) as host:
            assert await host.ended() == 1
            [line] = host.log.splitlines()
            assert "cannot run" in line


pytestmark = pytest.mark.root
