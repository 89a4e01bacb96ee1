"""The life of a proxy process around its engine. A protocol (``Proxy``) brings what is its own.

Start: endpoints, then what the proxy serves. End: the proxy drains, its tasks are cancelled, what is left of the access
log is exported, the engine is closed. The engine's failure ends everything at once.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

from meshapi.proto import engine_pb2
from meshengine import Engine, KernelUnsupported
from meshkit import admin, metrics, process
from meshkit.log import logger
from meshkit.tasks import Background, background
from meshkit.xds.client import NodeInfo, unix_channel
from meshproxy import admin as pages
from meshproxy import metrics as sources
from meshproxy.access_log_feed import AccessLogFeed
from meshproxy.certificates import Certificates
from meshproxy.engine_events import EngineEvents
from meshproxy.otlp import wiring
from meshproxy.settings import ProxySettings

_log = logger("proxy")


class Proxy(Protocol):
    """What one kind of proxy adds to the host."""

    def pending(self) -> Sequence[str]:
        """Return what readiness waits for."""
        ...

    def sources(self) -> Sequence[metrics.Source]:
        """Return metrics beside the engine's own."""
        ...

    def pages(self) -> Mapping[str, admin.Handler]:
        """Return admin pages, by route, beside those of every proxy."""
        ...

    def handle(self, event: engine_pb2.Event) -> None:
        """Take an event of the engine that is not about certificates."""
        ...

    async def serve(self, tasks: Background) -> None:
        """Start to serve: start tasks, which the end cancels. Called when the endpoints are open."""
        ...

    async def drain(self) -> None:
        """Take no new work, and return when the open work has ended or its time is over."""
        ...


class ProxyHost:
    """An engine, its certificates over SDS, its access log and its endpoints. Construct inside a loop, then ``run``.

    Attributes:
        engine: belongs to this object, which closes it.
        certificates: of the identities that the engine or the proxy wants.
        component: name of the process in metrics, as ``ztunnel``.
    """

    def __init__(self, component: str, settings: ProxySettings, engine: Engine) -> None:
        self.component = component
        self.engine = engine
        self.certificates = Certificates(engine, unix_channel(settings.sds_socket), node_info(component, settings))
        self._settings = settings
        self._exporter = wiring.exporter(settings)
        self._feed = AccessLogFeed(Path(settings.access_log_socket)) if settings.access_log_socket else None

    async def run(self, proxy: Proxy, stop: asyncio.Event) -> None:
        """Run a proxy until ``stop`` is set, then end in order.

        Raises:
            OSError: a port is taken.
            EngineFatal: a thread of the engine has failed.
        """
        feed = self._feed
        events = EngineEvents(
            self.engine, partial(self._handle, proxy), self._exporter, None if feed is None else feed.offer
        )
        try:
            async with AsyncExitStack() as stack, self._exporting(events), background() as tasks:
                await self._open_endpoints(stack, proxy, stop)
                tasks.start(events.run(), self.certificates.run(), *([] if feed is None else [feed.run()]))
                await proxy.serve(tasks)
                await stop.wait()
                await proxy.drain()
        finally:
            events.flush()
            await asyncio.to_thread(self.engine.close)

    async def drain_engine(self, timeout_s: float) -> None:
        """Take no new connections and wait until the open ones have ended; ``timeout_s`` seconds later they are cut."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        self.engine.drain(timeout_s)
        while self.engine.held() and loop.time() < deadline:  # noqa: ASYNC110  (a counter, no event)
            await asyncio.sleep(0.05)
        _log.info("drained", cut=self.engine.connections())

    def _handle(self, proxy: Proxy, event: engine_pb2.Event) -> None:
        match event.WhichOneof("kind"):
            case "certificate_wanted":
                self.certificates.want(event.certificate_wanted.identity)
            case "certificate_released":
                self.certificates.release(event.certificate_released.identity)
            case _:
                proxy.handle(event)

    @asynccontextmanager
    async def _exporting(self, events: EngineEvents) -> AsyncIterator[None]:
        """Export the access log while the block runs; after its ordered end, for a while, what is left."""
        if self._exporter is None:
            yield
            return
        async with background() as tasks:
            tasks.start(self._exporter.run())
            yield
            events.flush()
            # Half of the time between drain and kill.
            await self._exporter.finish((self._settings.termination_grace_period_seconds - self._settings.drain_s) / 2)

    async def _open_endpoints(self, stack: AsyncExitStack, proxy: Proxy, stop: asyncio.Event) -> None:
        settings = self._settings
        scrape = admin.metrics(metrics.registry(self.component, *self._sources(proxy)))

        def pending() -> Sequence[str]:
            return ["draining"] if stop.is_set() else proxy.pending()  # a proxy that drains is never ready again

        anywhere = "0.0.0.0"  # noqa: S104  (scraped by Prometheus and probed by the kubelet)
        for host, port, routes in (
            (anywhere, settings.metrics_port, {"GET /metrics": scrape, "GET /stats/prometheus": scrape}),
            (anywhere, settings.readiness_port, {"GET /healthz/ready": admin.readiness(pending)}),
            ("127.0.0.1", settings.admin_port, {**proxy.pages(), **pages.routes(settings, stop)}),
        ):
            await stack.enter_async_context(admin.serve([(host, port)], routes))

    def _sources(self, proxy: Proxy) -> list[metrics.Source]:
        own = [sources.engine(self.engine.metrics)]
        if self._exporter is not None:
            own.append(sources.exported(self._exporter.counts))
        return [*own, *proxy.sources()]


def node_info(component: str, settings: ProxySettings) -> NodeInfo:
    """Return how a proxy names itself to the control plane and to the certificate source."""
    name, namespace = settings.pod_name, settings.pod_namespace
    return NodeInfo(
        id=f"{component}~{settings.instance_ip}~{name}.{namespace}~{namespace}.svc.cluster.local",
        metadata={
            "NAME": name,
            "NAMESPACE": namespace,
            "INSTANCE_IPS": settings.instance_ip,
            "NODE_NAME": settings.node_name,
            "CLUSTER_ID": settings.cluster_id,
            "ISTIO_VERSION": version("culvert"),
        },
    )


def run(scope: str, work: process.Work) -> int:
    """Run a proxy process; return its exit status, which says to ``supervisor`` whether to start another one."""
    return process.run(scope, work, expected=(KernelUnsupported, OSError))
