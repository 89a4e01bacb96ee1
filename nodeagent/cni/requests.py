"""Requests of the CNI plugin: ``POST /cmdadd`` on a Unix socket.

The answer decides whether a pod starts: 200 (captured, or none of the mesh's), or an error, and the runtime tries
again. A pod of the mesh is never let through uncaptured.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_interface
from pathlib import Path
from typing import Final

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from meshkit import unix
from meshkit.log import logger
from nodeagent.discovery import namespaces
from nodeagent.discovery.enrolment import PodInfo
from nodeagent.enrolment.controller import Controller
from nodeagent.zds.server import NotConnected

_log = logger("cni")

_MAX_BYTES: Final = 64 * 1024
_CACHE_TIMEOUT_S: Final = 0.1


class Address(BaseModel):
    """One address of the new pod, with prefix length."""

    model_config = ConfigDict(extra="ignore")

    address: str = Field(alias="Address")


class AddRequest(BaseModel):
    """What the plugin says of a new pod."""

    model_config = ConfigDict(extra="ignore")

    netns: str = Field(alias="Netns", min_length=1)
    pod_name: str = Field(alias="PodName", min_length=1)
    pod_namespace: str = Field(alias="PodNamespace", min_length=1)
    pod_uid: str = Field(default="", alias="PodUID")
    ips: list[Address] = Field(default_factory=list, alias="IPs")


Find = Callable[[str, str], Awaitable[PodInfo | None]]
"""From namespace and name to the pod, from the local copy or the API itself."""


class PluginRequests:
    """Answers the plugin."""

    def __init__(
        self,
        controller: Controller,
        cached: Callable[[str, str], PodInfo | None],
        fetch: Find,
        knows_namespace: Callable[[str], bool],
    ) -> None:
        """Answer for ``controller``; ``knows_namespace``: whether the labels of a namespace have been seen."""
        self._controller = controller
        self._cached = cached
        self._fetch = fetch
        self._knows_namespace = knows_namespace
        self.answered = {"ok": 0, "failed": 0}

    @asynccontextmanager
    async def serve(self, path: Path) -> AsyncIterator[None]:
        """Serve on a Unix socket, for root only, while the context is open.

        Raises:
            OSError: the socket cannot be bound.
        """
        app = web.Application(client_max_size=_MAX_BYTES)
        app.router.add_post("/cmdadd", self._add)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        listener, inode = unix.listen(path, socket.SOCK_STREAM)
        with unix.published(path, inode):
            await web.SockSite(runner, listener).start()
            try:
                yield
            finally:
                await runner.cleanup()

    async def _add(self, request: web.Request) -> web.StreamResponse:
        try:
            wanted = AddRequest.model_validate_json(await request.read())
            addresses = tuple(str(ip_interface(item.address).ip) for item in wanted.ips)
        except (ValidationError, ValueError) as error:
            return self._failed(400, f"request: {error}")
        try:
            pod = await self._find(wanted)
            if pod is None:
                return self._failed(404, f"pod {wanted.pod_namespace}/{wanted.pod_name} is not known to Kubernetes")
            if not self._knows_namespace(wanted.pod_namespace):
                return self._failed(503, f"namespace {wanted.pod_namespace} is not known yet")
            wanted_here = self._controller.wants(pod)
            if wanted_here:
                namespace = await asyncio.to_thread(namespaces.open_path, wanted.netns)
                await self._controller.add(pod, namespace, addresses)
        except NotConnected as error:
            return self._failed(503, str(error))
        except OSError as error:
            return self._failed(500, str(error))
        self.answered["ok"] += 1
        return web.Response(text="captured\n" if wanted_here else "not in the mesh\n")

    async def _find(self, wanted: AddRequest) -> PodInfo | None:
        """Return the pod; the runtime may be ahead of the watch, so the API server is queried if the cache lags."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _CACHE_TIMEOUT_S
        while loop.time() < deadline:
            pod = self._cached(wanted.pod_namespace, wanted.pod_name)
            if pod is not None and pod.uid == (wanted.pod_uid or pod.uid):
                return pod
            await asyncio.sleep(0.01)
        return await self._fetch(wanted.pod_namespace, wanted.pod_name)

    def _failed(self, status: int, reason: str) -> web.StreamResponse:
        self.answered["failed"] += 1
        _log.warning("a pod is held back", status=status, reason=reason)
        return web.Response(status=status, text=reason + "\n")
