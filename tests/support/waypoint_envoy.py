"""Real Envoy as a waypoint's proxy: a bootstrap like the waypoint host's, discovery and secrets on Unix sockets."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.envoy import program
from tests.support.waiting import TIMEOUT_FACTOR

START_S = 20.0 * TIMEOUT_FACTOR
_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def _unix_cluster(name: str, socket: Path) -> dict[str, Any]:
    http2 = {"explicit_http_config": {"http2_protocol_options": {}}}
    return {
        "name": name,
        "typed_extension_protocol_options": {_OPTIONS: {"@type": f"type.googleapis.com/{_OPTIONS}", **http2}},
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": str(socket)}}}}]}],
        },
    }


def bootstrap(admin: Path, xds: Path, secrets: Path) -> dict[str, Any]:
    source = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
    internal = "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener"
    return {
        "node": {"id": "waypoint~10.0.0.1~waypoint-1.default~default.svc.cluster.local", "cluster": "waypoint.default"},
        "admin": {"address": {"pipe": {"path": str(admin)}}},
        "bootstrap_extensions": [
            {"name": "envoy.bootstrap.internal_listener", "typed_config": {"@type": internal}},
        ],
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"}}],
            },
            "cds_config": source,
            "lds_config": source,
        },
        "static_resources": {"clusters": [_unix_cluster("xds-grpc", xds), _unix_cluster("sds-grpc", secrets)]},
    }


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
            return ready and "connect_terminate" in await self.get("/listeners")
        except (aiohttp.ClientError, OSError):
            return False


@asynccontextmanager
async def running(folder: Path, xds: Path, secrets: Path, *, level: str = "warn") -> AsyncIterator[Envoy]:
    """Run Envoy; yields when it has its listeners."""
    file, admin, log = folder / "envoy.json", folder / "admin", folder / "envoy.log"
    file.write_text(json.dumps(bootstrap(admin, xds, secrets)))
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            program(), "-c", str(file), "--use-dynamic-base-id", "--concurrency", "1", "-l", level,
            "--file-flush-interval-msec", "20", stdout=output, stderr=output,
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
