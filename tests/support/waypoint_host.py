"""A waypoint's host as a process of its own, with a real Envoy, below a folder of its own instead of ``/``."""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp

from meshapi import names
from tests.support.envoy import program
from tests.support.ports import free_port
from tests.support.waiting import scaled

_FOLDERS = ("var/run/secrets/workload-spiffe-uds", "etc/istio/proxy", "etc/istio/pod")


class WaypointHost:
    """A running host."""

    def __init__(self, root: Path, ports: dict[str, int], process: asyncio.subprocess.Process, log: Path) -> None:
        self.root = root
        self.ports = ports
        self.process = process
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text()

    async def get(self, port: str, path: str) -> tuple[int, str]:
        url = f"http://127.0.0.1:{self.ports[port]}{path}"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return answer.status, await answer.text()

    async def readiness(self) -> str:
        """What the kubelet would see."""
        try:
            status, text = await self.get("READINESS_PORT", "/healthz/ready")
        except aiohttp.ClientError as error:
            return str(error)
        return text.strip() if status == 200 else f"{status}: {text.strip()}"

    async def ready(self, within_s: float = 20.0) -> None:
        try:
            async with asyncio.timeout(scaled(within_s)):
                while await self.readiness() != "ready":
                    assert self.process.returncode is None, self.log
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"{await self.readiness()}\n{self.log}") from None

    async def envoy_pid(self) -> int:
        """The process that has Envoy's bootstrap on its command line."""
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (folder / "cmdline").read_bytes().split(b"\0")
                if str(self.root / names.ENVOY_BOOTSTRAP).encode() in words:
                    return int(folder.name)
        return 0

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    async def ended(self, within_s: float = 15.0) -> int:
        async with asyncio.timeout(scaled(within_s)):
            return await self.process.wait()


@contextlib.asynccontextmanager
async def waypoint_host(
    *, xds_port: int, roots: bytes, token: str, labels: dict[str, str] | None = None, **more: str
) -> AsyncIterator[WaypointHost]:
    """Run a host of the waypoint `waypoint` in the namespace `shop`."""
    root = Path(tempfile.mkdtemp(prefix="culvert-wp-"))  # short: paths of sockets are limited
    for folder in _FOLDERS:
        (root / folder).mkdir(parents=True)
    (root / "token").write_text(token)
    (root / "roots.pem").write_bytes(roots)
    (root / "etc/istio/pod/labels").write_text("".join(f'{key}="{value}"\n' for key, value in (labels or {}).items()))
    kinds = ("ADMIN_PORT", "METRICS_PORT", "READINESS_PORT", "PROMETHEUS_PORT", "HOST_ADMIN_PORT")
    ports = {kind: free_port() for kind in kinds}
    environment = {
        **os.environ, **{kind: str(port) for kind, port in ports.items()},
        "POD_NAME": "waypoint-1", "POD_NAMESPACE": "shop", "SERVICE_ACCOUNT": "waypoint", "INSTANCE_IP": "127.0.0.1",
        "XDS_ADDRESS": f"127.0.0.1:{xds_port}", "XDS_SERVER_NAME": "istiod.istio-system.svc",
        "XDS_ROOT_CA": str(root / "roots.pem"), "TOKEN_PATH": str(root / "token"), "CRL_PATH": str(root / "crl.pem"),
        "ROOT": str(root), "ENVOY": program(), "CONCURRENCY": "1", "ISTIO_META_WORKLOAD_NAME": "waypoint", **more,
    }  # fmt: skip
    log = root / "log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "waypoint.app", env=environment, stdout=output, stderr=output
        )
    try:
        yield WaypointHost(root, ports, process, log)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        shutil.rmtree(root)
