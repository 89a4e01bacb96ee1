"""A second proxy process: it serves its own pod, with a certificate over SDS. All else is ``meshproxy``."""

import asyncio
import json
import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial

from aiohttp import web
from pydantic import Field

from meshapi.identity import SpiffeId
from meshapi.proto import engine_pb2
from meshengine import Engine
from meshkit import admin, log, metrics
from meshkit.tasks import Background
from meshproxy import host, limits
from meshproxy.host import ProxyHost
from meshproxy.settings import ProxySettings
from meshproxy.supervisor import supervise


class EmptySettings(ProxySettings):
    pod_name: str = Field(default="empty", description="Name of the pod that this process runs in.")
    service_account: str = Field(default="empty", description="Service account of that pod.")


class Empty:
    """See ``meshproxy.host.Proxy``."""

    def __init__(self, settings: EmptySettings, crashes: int) -> None:
        limits.raise_descriptors()
        config = engine_pb2.EngineConfig(worker_threads=1, trust_domain=settings.trust_domain)
        self._engine = Engine(config.SerializeToString())
        self._host = ProxyHost("empty", settings, self._engine)
        self._identity = str(SpiffeId(settings.trust_domain, settings.pod_namespace, settings.service_account))
        self._settings = settings
        self._crashes = crashes
        self._listens = False

    async def run(self, stop: asyncio.Event) -> None:
        await self._host.run(self, stop)

    def pending(self) -> Sequence[str]:
        held = [one["identity"] for one in json.loads(self._engine.dump("certificates")) if one["certChain"]]
        waiting = [] if self._listens else ["listeners"]
        return waiting if self._identity in held else [*waiting, f"certificate of {self._identity}"]

    def sources(self) -> Sequence[metrics.Source]:
        return [lambda: [metrics.counter("empty_crashes", "Crashes before this process", float(self._crashes))]]

    def pages(self) -> Mapping[str, admin.Handler]:
        async def identity(_: web.Request) -> web.StreamResponse:
            return web.Response(text=self._identity)

        return {"GET /identity": identity}

    def handle(self, event: engine_pb2.Event) -> None:
        if event.WhichOneof("kind") == "workload_started":
            self._listens = not event.workload_started.error

    async def serve(self, tasks: Background) -> None:
        own = engine_pb2.WorkloadRef(
            uid="own", name=self._settings.pod_name, namespace=self._settings.pod_namespace,
            service_account=self._settings.service_account, mode=engine_pb2.WorkloadRef.NATIVE_TUNNEL,
        )  # fmt: skip
        namespace = os.open("/proc/self/ns/net", os.O_RDONLY)
        self._engine.add_workload(own.SerializeToString(), namespace)
        os.close(namespace)

    async def drain(self) -> None:
        await self._host.drain_engine(self._settings.drain_s)


def serve(settings: EmptySettings, crashes: int) -> int:
    async def work(stop: asyncio.Event) -> None:
        await Empty(settings, crashes).run(stop)

    return host.run("empty", work)


def main() -> None:
    settings = EmptySettings.from_command_line()
    log.configure(level=settings.log_level, log_format=settings.log_format)
    sys.exit(supervise(partial(serve, settings)))


if __name__ == "__main__":
    main()
