"""``culvert-waypoint``: wiring of the host, and its life from start to drain."""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web

from meshapi import names
from meshapi.identity import SpiffeId
from meshkit import admin as pages
from meshkit import log, metrics, process
from meshkit.secrets import roots
from meshkit.secrets.ca_client import CaClient
from meshkit.secrets.manager import SecretManager
from meshkit.secrets.revocation import RevocationFile
from meshkit.tasks import background
from meshkit.xds import credentials
from meshkit.xds.client import tls_channel
from meshkit.xds.relay import Relay
from meshkit.xds.sds import SecretDiscovery
from meshkit.xds.serving import serve_unix
from meshproxy import admin as proxy_pages
from meshproxy.supervisor import Crashes
from waypoint import bootstrap, node
from waypoint import metrics as merging
from waypoint.admin import EnvoyAdmin, EnvoyUnavailable
from waypoint.drain import drain
from waypoint.envoy import Envoy
from waypoint.file_secrets import FileSecrets
from waypoint.secrets import OwnSecrets
from waypoint.settings import WaypointSettings

_log = log.logger("waypoint")


class Waypoint:
    """One running waypoint. Construct inside a loop, then ``run`` once."""

    def __init__(self, settings: WaypointSettings) -> None:
        self._settings = settings
        token = partial(credentials.token_metadata, settings.token_path, settings.cluster_id)
        connect = partial(tls_channel, root_file=settings.xds_root_ca, server_name=settings.xds_server_name or None)
        self._authority = CaClient(
            connect(settings.ca_address or settings.xds_address),
            token,
            validity_s=settings.certificate_ttl_s,
            impersonates=False,
        )
        self._identity = SpiffeId(settings.trust_domain, settings.pod_namespace, settings.service_account)
        self._secrets = SecretManager(self._authority)
        self._file_secrets = FileSecrets(settings.system_roots)
        self._revocation = RevocationFile(settings.crl_path, self._secrets.revoke)
        self._relay = Relay(connect(settings.xds_address), token)
        self._envoy = Envoy(settings, self._document(), Crashes(time.monotonic))
        self._admin = EnvoyAdmin(settings.admin_port)
        self._own = metrics.registry("waypoint", merging.source(lambda: self._envoy.crashes, self._is_connected))
        self._was_ready = False

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set, then drain.

        Raises:
            OSError: a port is taken, a folder or Envoy's program is missing.
            Fatal: Envoy crashes too often.
        """
        settings = self._settings
        async with self._admin, self._endpoints(stop), self._sockets(), background() as tasks:
            await self._revocation.look()
            self._secrets.acquire(self._identity)
            tasks.start(
                self._revocation.follow(),
                self._file_secrets.follow(),
                roots.follow(settings.xds_root_ca, self._secrets.renew_all),
                self._envoy.run(),
            )
            try:
                await stop.wait()
                _log.info("ending")
                await drain(self._admin, settings)
            finally:
                await self._envoy.end()
                await self._secrets.close()
                await self._authority.close()

    def _document(self) -> dict[str, Any]:
        settings = self._settings
        folder = settings.under_root(names.POD_INFO_DIR)
        labels, annotations = (node.projected(_read(folder / name)) for name in ("labels", "annotations"))
        return bootstrap.render(node.of(settings, os.environ, labels, annotations), settings)

    def _is_connected(self) -> bool:
        return self._relay.connected

    @contextlib.asynccontextmanager
    async def _sockets(self) -> AsyncIterator[None]:
        secrets = SecretDiscovery(OwnSecrets(self._secrets, self._identity, self._file_secrets))
        under = self._settings.under_root
        async with (
            serve_unix(under(names.WORKLOAD_SDS_SOCKET), [secrets]),
            serve_unix(under(names.ENVOY_XDS_SOCKET), [self._relay]),
        ):
            yield

    @contextlib.asynccontextmanager
    async def _endpoints(self, stop: asyncio.Event) -> AsyncIterator[None]:
        settings = self._settings
        ready = partial(self._ready, stop)
        anywhere = "0.0.0.0"  # noqa: S104  (scraped by Prometheus and probed by the kubelet)
        scrape: dict[str, pages.Handler] = {
            "GET /stats/prometheus": self._scrape,
            "GET /metrics": self._scrape,
            "GET /healthz/ready": ready,
        }
        async with (
            pages.serve([(anywhere, settings.metrics_port)], scrape),
            pages.serve([(anywhere, settings.readiness_port)], {"GET /healthz/ready": ready}),
            pages.serve([("127.0.0.1", settings.host_admin_port)], proxy_pages.routes(settings, stop)),
        ):
            yield

    async def _ready(self, stop: asyncio.Event, _: web.Request) -> web.StreamResponse:
        waiting: tuple[str, ...] = ()
        try:
            waiting = ("draining",) if stop.is_set() else (await self._admin.state()).pending
        except EnvoyUnavailable as error:
            waiting = (f"Envoy ({error})",)
        if waiting:
            return web.Response(status=503, text=f"not ready, pending: {', '.join(waiting)}\n")
        if not self._was_ready:
            self._was_ready = True
            _log.info("ready")
        return web.Response(text="ready\n")

    async def _scrape(self, _: web.Request) -> web.StreamResponse:
        try:
            envoy = await self._admin.get("/stats/prometheus")
        except EnvoyUnavailable as error:
            _log.warning("Envoy's statistics cannot be read", reason=str(error))
            envoy = b""
        body = await asyncio.to_thread(merging.merged, envoy, self._own)
        response = web.Response(body=body, headers={"Content-Type": merging.CONTENT_TYPE})
        response.enable_compression()
        return response


def _read(file: Path) -> str:
    """Return the content of a projected file; nothing where the pod does not have it."""
    try:
        return file.read_text()
    except FileNotFoundError:
        return ""


def main() -> None:
    """Entry point of ``culvert-waypoint``."""
    settings = WaypointSettings.from_command_line()
    log.configure(level=settings.log_level, log_format=settings.log_format)

    async def work(stop: asyncio.Event) -> None:
        await Waypoint(settings).run(stop)

    sys.exit(process.run("waypoint", work))


if __name__ == "__main__":
    main()
