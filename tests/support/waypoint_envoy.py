"""Real Envoy as a waypoint's proxy: the waypoint host's bootstrap, discovery and secrets on Unix sockets."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import aiohttp

from meshapi import names
from tests.support.envoy import program
from tests.support.waiting import TIMEOUT_FACTOR
from waypoint.bootstrap import render
from waypoint.node import Node
from waypoint.settings import WaypointSettings

START_S = 20.0 * TIMEOUT_FACTOR


def bootstrap(admin: Path, xds: Path, secrets: Path, *, gateway: bool = False) -> dict[str, Any]:
    """The waypoint host's own bootstrap, with sockets in the test's folder."""
    settings = WaypointSettings(
        pod_name="waypoint-1", pod_namespace="default", instance_ip="10.0.0.1", service_account="waypoint"
    )
    kind = "router" if gateway else "waypoint"
    node = Node(f"{kind}~10.0.0.1~waypoint-1.default~default.svc.cluster.local", "waypoint.default", {})
    document = render(node, settings)
    document["admin"] = {"address": {"pipe": {"path": str(admin)}}}
    static = document["static_resources"]
    static["listeners"] = []
    sockets = {names.XDS_CLUSTER: xds, names.SDS_CLUSTER: secrets}
    for cluster in static["clusters"]:
        if cluster["name"] in sockets:
            [endpoint] = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
            endpoint["endpoint"]["address"] = {"pipe": {"path": str(sockets[cluster["name"]])}}
    return document


class Envoy:
    """A running waypoint's proxy."""

    def __init__(self, admin: Path, log: Path, process: asyncio.subprocess.Process) -> None:
        self._admin = admin
        self.log = log
        self.process = process

    async def get(self, path: str) -> str:
        connector = aiohttp.UnixConnector(str(self._admin))
        async with aiohttp.ClientSession(connector=connector) as session, session.get(f"http://envoy{path}") as answer:
            return await answer.text()

    async def is_ready(self) -> bool:
        """Whether it serves, with its listeners."""
        try:
            ready = (await self.get("/ready")).strip() == "LIVE"
            return ready and "connect_originate" in await self.get("/listeners")
        except (aiohttp.ClientError, OSError):
            return False


@asynccontextmanager
async def running(
    folder: Path,
    xds: Path,
    secrets: Path,
    *,
    level: str = "warn",
    gateway: bool = False,
    resolved: Mapping[str, str] = MappingProxyType({}),
) -> AsyncIterator[Envoy]:
    """Run Envoy, for which names resolve to the given addresses; yields when it has its listeners."""
    file, admin, log = folder / "envoy.json", folder / "admin", folder / "envoy.log"
    file.write_text(json.dumps(bootstrap(admin, xds, secrets, gateway=gateway)))
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *_with_names(folder, resolved), program(), "-c", str(file), "--use-dynamic-base-id", "--concurrency", "1",
            "-l", level, "--file-flush-interval-msec", "20", stdout=output, stderr=output,
        )  # fmt: skip
    envoy = Envoy(admin, log, process)
    try:
        async with asyncio.timeout(START_S):
            while not await envoy.is_ready():
                assert process.returncode is None, f"envoy ended: {log.read_text()[-2000:]}"
                await asyncio.sleep(0.02)
        yield envoy
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _with_names(folder: Path, resolved: Mapping[str, str]) -> list[str]:
    """The command that runs another one where names resolve to addresses: with a file of hosts of its own."""
    if not resolved:
        return []
    hosts = folder / "hosts"
    hosts.write_text("".join(f"{address} {name}\n" for name, address in resolved.items()))
    script = f'mount --bind {hosts} /etc/hosts && exec "$@"'
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]
