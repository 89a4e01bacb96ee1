"""Wiring of ztunnel, and its life from start to drain."""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from meshapi import names
from meshapi.proto import engine_pb2
from meshengine import Engine, KernelUnsupported
from meshkit import admin, log, metrics
from meshkit.tasks import Background
from meshkit.xds import credentials
from meshkit.xds.client import EVERYTHING, DeltaClient, tls_channel
from meshproxy import handover, host, limits
from meshproxy import metrics as sources
from meshproxy.host import ProxyHost
from meshproxy.snapshot import Snapshot
from meshproxy.supervisor import supervise
from ztunnel import pages, telemetry
from ztunnel.own import OwnWorkload
from ztunnel.settings import AccessLog, ZtunnelSettings
from ztunnel.workloads import Workloads
from ztunnel.xds import SNAPSHOT_TYPES, XdsReceiver
from ztunnel.zds import ZdsClient

_log = log.logger("ztunnel")

_ACCESS_LOG = {
    AccessLog.OFF: engine_pb2.OFF,
    AccessLog.TEXT: engine_pb2.TEXT,
    AccessLog.JSON: engine_pb2.JSON,
    AccessLog.MESH: engine_pb2.MESH,
}

_FRESH_STATE_WAIT_S = 2.0
"""Timeout of the control plane where a restored snapshot is available; at most restarts the control plane is up."""


class Ztunnel:
    """One running ztunnel, a ``meshproxy.host.Proxy``. Construct inside a loop, then ``run``.

    Args:
        settings: flags and environment.
        crashes: how often one of this container has crashed before.
    """

    def __init__(self, settings: ZtunnelSettings, crashes: int = 0) -> None:
        self._settings = settings
        self._crashes = crashes
        engine = Engine(_engine_config(settings, limits.raise_descriptors()).SerializeToString())
        self._engine = engine
        self._host = ProxyHost("ztunnel", settings, engine)
        self._snapshot = Snapshot(Path(settings.snapshot_path), SNAPSHOT_TYPES) if settings.snapshot_path else None
        self._mesh = XdsReceiver(engine, self._snapshot)
        self._workloads = Workloads(engine)
        self._own = OwnWorkload(engine, settings)
        self._zds = ZdsClient(settings.zds_socket, self._workloads, complete=self._attach_direct)
        self._xds = DeltaClient(
            connect=tls_channel(settings.xds_address, settings.xds_root_ca, settings.xds_server_name or None),
            metadata=partial(credentials.token_metadata, settings.token_path, settings.cluster_id),
            node=host.node_info("ztunnel", settings),
            subscriptions={
                names.MESH_CONFIG_TYPE: EVERYTHING,
                names.AUTHORIZATION_TYPE: EVERYTHING,
                names.ADDRESS_TYPE: EVERYTHING,
            },
            optional=[names.MESH_CONFIG_TYPE],
            receiver=self._mesh,
        )
        self._state_known = asyncio.Event()
        self._following: asyncio.Task[None] | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set, then drain.

        Raises:
            OSError: a port of ours is taken.
            EngineFatal: a thread of the engine has failed.
        """
        try:
            await self._host.run(self, stop)
        finally:
            if self._snapshot is not None:
                self._snapshot.close()

    def pending(self) -> list[str]:
        """See ``Proxy.pending``."""
        waiting = []
        if not self._state_known.is_set():
            waiting.append("state of the mesh")
        if not self._zds.snapshot_received:
            waiting.append("node agent")
        return waiting + [f"workload {name}" for name in (*self._workloads.pending, *self._own.pending)]

    def sources(self) -> Sequence[metrics.Source]:
        """See ``Proxy.sources``."""
        own = telemetry.source(
            active=lambda: self._workloads.active,
            pending=lambda: len(self._workloads.pending),
            connections=self._engine.connections,
            crashes=self._crashes,
        )
        return [sources.discovery(self._xds.counts), own]

    def pages(self) -> Mapping[str, admin.Handler]:
        """See ``Proxy.pages``."""
        return pages.routes(self._engine, self._settings)

    def handle(self, event: engine_pb2.Event) -> None:
        """See ``Proxy.handle``."""
        match event.WhichOneof("kind"):
            case "workload_started":
                self._workloads.started(event.workload_started.uid, event.workload_started.error)
                self._own.started(event.workload_started.uid, event.workload_started.error)
            case "workload_stopped":
                _log.info("last stream of a removed workload ended", uid=event.workload_stopped.uid)
            case _:
                pass

    async def serve(self, tasks: Background) -> None:
        """See ``Proxy.serve``."""
        restored = await self._restore()
        tasks.start(
            self._xds.run(),
            self._note_first_state(restored=restored),
            self._keep_snapshot(),
            self._workloads.retry_pending(),
            self._serve_own_pod(),
        )
        [self._following] = tasks.start(self._serve_workloads())

    async def _restore(self) -> bool:
        """Put the state of the last run in force; false where nothing is known of it."""
        if self._snapshot is None:
            return False
        held = await self._snapshot.restore(self._mesh.restore)
        for type_url, versions in held.items():
            self._xds.hold(type_url, versions)
        return bool(held)

    async def _note_first_state(self, *, restored: bool) -> None:
        """Wait for the state of the mesh; a restored one is good enough when the control plane does not answer."""
        try:
            # After a crash the snapshot is current, and no other process serves meanwhile.
            timeout_s = 0.0 if self._crashes else _FRESH_STATE_WAIT_S
            async with asyncio.timeout(timeout_s if restored else None):
                await self._xds.wait_received()
            _log.info("state of the mesh received")
        except TimeoutError:
            _log.warning("control plane has not answered, serving the restored state", waited_s=timeout_s)
        self._state_known.set()

    async def _serve_workloads(self) -> None:
        """Open no listener before the state is known: it would take connections that a running ztunnel can serve."""
        await self._state_known.wait()
        await self._zds.run()

    async def _attach_direct(self) -> None:
        """Decide from now on which pods of this node connect directly; a failure leaves everything to the tunnel."""
        if not self._settings.direct_connections:
            return
        try:
            await asyncio.to_thread(self._engine.attach_direct, self._settings.bpf_pins)
        except KernelUnsupported as error:
            _log.warning("no connection is direct: the tunnel carries all of them", reason=str(error))

    async def _serve_own_pod(self) -> None:
        await self._state_known.wait()
        await self._own.serve()

    async def _keep_snapshot(self) -> None:
        """Write only once every type has come: a state without its policies must never be restored."""
        if self._snapshot is not None:
            await self._xds.wait_received()
            await self._snapshot.run()

    async def drain(self) -> None:
        """Take what is new until a successor does, then let open streams end."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        deadline = began + self._settings.drain_s
        self._zds.retire()
        _log.info("ending, new connections are taken until a successor serves", workloads=self._workloads.active)
        timeout_s = min(self._settings.handover_s, self._settings.drain_s)
        found = await handover.wait_for_successor(
            lambda: self._workloads.namespaces, timeout_s, ports=names.CAPTURE_PORTS
        )
        # From here on a new workload's listeners would never be closed: the node agent has to use another ztunnel.
        if self._following is not None:
            self._following.cancel()
        left_s = max(0.0, deadline - loop.time())
        _log.info(
            "draining", successor=found, after_s=round(loop.time() - began, 2),
            connections=self._engine.connections(), timeout_s=round(left_s, 2),
        )  # fmt: skip
        await self._host.drain_engine(left_s)


def _engine_config(settings: ZtunnelSettings, descriptors: int) -> engine_pb2.EngineConfig:
    return engine_pb2.EngineConfig(
        worker_threads=settings.worker_threads,
        max_worker_threads=settings.max_worker_threads,
        reserved_cpus=settings.reserved_cpus,
        trust_domain=settings.trust_domain,
        network=settings.network,
        cluster_id=settings.cluster_id,
        node=settings.node_name,
        connect_timeout_ms=round((settings.connect_timeout_s or 0) * 1000),
        connect_attempts=settings.connect_attempts,
        connect_attempt_delay_ms=round(settings.connect_attempt_delay_s * 1000),
        outlier_consecutive_failures=settings.outlier_consecutive_failures,
        outlier_base_ejection_ms=round(settings.outlier_base_ejection_s * 1000),
        outlier_max_ejection_percent=settings.outlier_max_ejection_percent,
        dns_proxy=settings.dns_proxy,
        dns_log=settings.log_level is log.Level.DEBUG,
        cluster_domain=settings.cluster_domain,
        max_connections_per_workload=limits.connections_per_workload(
            settings.max_connections_per_workload, descriptors
        ),
        max_handshakes_per_workload=settings.max_handshakes_per_workload,
        max_buffered_bytes_per_workload=settings.max_buffered_bytes_per_workload,
        max_bandwidth_per_workload=settings.max_bandwidth_per_workload,
        removal_drain_ms=round(settings.removal_drain_s * 1000),
        metrics_idle_ms=round(settings.metrics_idle_s * 1000),
        metrics_excluded_labels=settings.metrics_excluded_labels,
        direct_connections=settings.direct_connections,
        access_log=_ACCESS_LOG[settings.access_log],
        access_log_records=bool(settings.otlp_endpoint),
    )


def main() -> None:
    """Entry point of ``culvert-ztunnel``."""
    settings = ZtunnelSettings.from_command_line()
    log.configure(level=settings.log_level, log_format=settings.log_format)
    sys.exit(supervise(partial(_serve, settings)))


def _serve(settings: ZtunnelSettings, crashes: int) -> int:
    """Run one ztunnel; return the process's exit status."""

    async def work(stop: asyncio.Event) -> None:
        await Ztunnel(settings, crashes).run(stop)

    return host.run("ztunnel", work)
