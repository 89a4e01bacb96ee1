"""Wiring of ztunnel, and its life from start to drain."""

import asyncio
import signal
import sys
from contextlib import AsyncExitStack
from functools import partial
from importlib.metadata import version
from pathlib import Path

from meshapi import names
from meshapi.proto import engine_pb2
from meshengine import Engine, KernelUnsupported, events
from meshkit import admin, log
from meshkit.tasks import first_cause
from meshkit.xds import credentials
from meshkit.xds.client import EVERYTHING, DeltaClient, NodeInfo, tls_channel, unix_channel
from meshproxy import handover, limits, metrics
from meshproxy.certificates import Certificates
from meshproxy.otlp.exporter import Portion, Reason
from meshproxy.snapshot import Snapshot
from meshproxy.supervisor import CRASHED, supervise
from ztunnel import otlp_wiring as wiring
from ztunnel import pages
from ztunnel.own import OwnWorkload
from ztunnel.settings import AccessLog, ZtunnelSettings
from ztunnel.workloads import Workloads
from ztunnel.xds import XdsReceiver
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


class EngineFatal(Exception):
    """A thread of the engine has failed; only a new process can help."""


class Ztunnel:
    """One running ztunnel. Construct, then ``run``.

    Args:
        settings: flags and environment.
        crashes: how often one of this container has crashed before.
    """

    def __init__(self, settings: ZtunnelSettings, crashes: int = 0) -> None:
        self._settings = settings
        self._crashes = crashes
        self._engine = Engine(_engine_config(settings, limits.raise_descriptors()).SerializeToString())
        node = _node(settings)
        self._snapshot = Snapshot(Path(settings.snapshot_path)) if settings.snapshot_path else None
        self._mesh = XdsReceiver(self._engine, self._snapshot)
        self._workloads = Workloads(self._engine)
        self._own = OwnWorkload(self._engine, settings)
        self._zds = ZdsClient(settings.zds_socket, self._workloads)
        self._certificates = Certificates(self._engine, unix_channel(settings.sds_socket), node)
        self._xds = DeltaClient(
            connect=tls_channel(settings.xds_address, settings.xds_root_ca, settings.xds_server_name or None),
            metadata=partial(credentials.token_metadata, settings.token_path, settings.cluster_id),
            node=node,
            subscriptions={
                names.MESH_CONFIG_TYPE: EVERYTHING,
                names.AUTHORIZATION_TYPE: EVERYTHING,
                names.ADDRESS_TYPE: EVERYTHING,
            },
            optional=[names.MESH_CONFIG_TYPE],
            receiver=self._mesh,
        )
        self._exporter = wiring.exporter(settings)
        self._state_known = asyncio.Event()
        self._quit = asyncio.Event()

    async def run(self) -> None:
        """Serve until a signal or a request to end, then drain.

        Raises:
            OSError: a port of ours is taken.
            EngineFatal: see there.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._quit.set)
        try:
            async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
                await self._open_endpoints(stack)
                restored = await self._restore()
                running = [
                    tasks.create_task(work)
                    for work in (
                        self._follow_engine(),
                        self._certificates.run(),
                        self._xds.run(),
                        self._note_first_state(restored=restored),
                        self._keep_snapshot(),
                        self._workloads.retry_pending(),
                        self._serve_own_pod(),
                    )
                ]
                exporting = tasks.create_task(self._exporter.run()) if self._exporter else None
                following = tasks.create_task(self._serve_workloads())
                await self._quit.wait()
                await self._drain(following)
                for task in running:
                    task.cancel()
                if self._exporter and exporting:
                    self._write(engine_pb2.EventBatch.FromString(self._engine.drain_events()))
                    # Half of the time between drain and kill.
                    spare_s = self._settings.termination_grace_period_seconds - self._settings.drain_s
                    await self._exporter.finish(spare_s / 2)
                    exporting.cancel()
        finally:
            self._write(engine_pb2.EventBatch.FromString(self._engine.drain_events()))
            await asyncio.to_thread(self._engine.close)
            if self._snapshot is not None:
                self._snapshot.close()

    def pending(self) -> list[str]:
        """What readiness waits for; a ztunnel that drains is never ready again."""
        if self._quit.is_set():
            return ["draining"]
        waiting = []
        if not self._state_known.is_set():
            waiting.append("state of the mesh")
        if not self._zds.snapshot_received:
            waiting.append("node agent")
        return waiting + [f"workload {name}" for name in (*self._workloads.pending, *self._own.pending)]

    async def _open_endpoints(self, stack: AsyncExitStack) -> None:
        settings = self._settings
        registry = metrics.registry(
            self._engine.metrics,
            lambda: self._workloads.active,
            lambda: len(self._workloads.pending),
            self._engine.connections,
            crashes=self._crashes,
            discovery=self._xds.counts,
            exported=self._exporter.counts if self._exporter else None,
        )
        scrape = admin.metrics(registry)
        anywhere = "0.0.0.0"  # noqa: S104  (scraped by Prometheus and probed by the kubelet)
        await stack.enter_async_context(
            admin.serve([(anywhere, settings.metrics_port)], {"GET /metrics": scrape, "GET /stats/prometheus": scrape})
        )
        await stack.enter_async_context(
            admin.serve([(anywhere, settings.readiness_port)], {"GET /healthz/ready": admin.readiness(self.pending)})
        )
        handlers = pages.routes(self._engine, settings, self._quit)
        await stack.enter_async_context(admin.serve([("127.0.0.1", settings.admin_port)], handlers))

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

    async def _serve_own_pod(self) -> None:
        await self._state_known.wait()
        await self._own.serve()

    async def _keep_snapshot(self) -> None:
        """Write only once every type has come: a state without its policies must never be restored."""
        if self._snapshot is not None:
            await self._xds.wait_received()
            await self._snapshot.run()

    async def _follow_engine(self) -> None:
        async for packed in events.batches(self._engine):
            batch = engine_pb2.EventBatch.FromString(packed)
            self._write(batch)
            for event in batch.events:
                self._handle(event)

    def _write(self, batch: engine_pb2.EventBatch) -> None:
        if batch.access_log:
            sys.stdout.buffer.write(batch.access_log)
            sys.stdout.buffer.flush()
        if self._exporter and batch.access_log_records:
            self._exporter.offer(Portion(one.records, one.count) for one in batch.access_log_records)
            self._exporter.counts.dropped[Reason.HOST_BUSY] = batch.access_log_records_dropped

    def _handle(self, event: engine_pb2.Event) -> None:
        match event.WhichOneof("kind"):
            case "certificate_wanted":
                self._certificates.want(event.certificate_wanted.identity)
            case "certificate_released":
                self._certificates.release(event.certificate_released.identity)
            case "workload_started":
                self._workloads.started(event.workload_started.uid, event.workload_started.error)
                self._own.started(event.workload_started.uid, event.workload_started.error)
            case "workload_stopped":
                _log.info("last stream of a removed workload ended", uid=event.workload_stopped.uid)
            case "fatal":
                raise EngineFatal(event.fatal.reason)
            case _:
                pass

    async def _drain(self, following: asyncio.Task[None]) -> None:
        """Take what is new until a successor does, then let open streams end."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        deadline = began + self._settings.drain_s
        self._zds.retire()
        _log.info("ending, new connections are taken until a successor serves", workloads=self._workloads.active)
        timeout_s = min(self._settings.handover_s, self._settings.drain_s)
        found = await handover.wait_for_successor(lambda: self._workloads.namespaces, timeout_s)
        # From here on a new workload's listeners would never be closed: the node agent has to use another ztunnel.
        following.cancel()
        left_s = max(0.0, deadline - loop.time())
        _log.info(
            "draining", successor=found, after_s=round(loop.time() - began, 2),
            connections=self._engine.connections(), timeout_s=round(left_s, 2),
        )  # fmt: skip
        self._engine.drain(left_s)
        while self._engine.held() and loop.time() < deadline:  # noqa: ASYNC110  (a counter, no event)
            await asyncio.sleep(0.05)
        _log.info("drained", cut=self._engine.connections())


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
        access_log=_ACCESS_LOG[settings.access_log],
        access_log_records=bool(settings.otlp_endpoint),
    )


def _node(settings: ZtunnelSettings) -> NodeInfo:
    name, namespace = settings.pod_name, settings.pod_namespace
    return NodeInfo(
        id=f"ztunnel~{settings.instance_ip}~{name}.{namespace}~{namespace}.svc.cluster.local",
        metadata={
            "NAME": name,
            "NAMESPACE": namespace,
            "INSTANCE_IPS": settings.instance_ip,
            "NODE_NAME": settings.node_name,
            "CLUSTER_ID": settings.cluster_id,
            "ISTIO_VERSION": version("culvert"),
        },
    )


def main() -> None:
    """Entry point of ``culvert-ztunnel``."""
    settings = ZtunnelSettings.from_command_line()
    log.configure(level=settings.log_level, log_format=settings.log_format)
    sys.exit(supervise(partial(_serve, settings)))


def _serve(settings: ZtunnelSettings, crashes: int) -> int:
    """Run one ztunnel; return the process's exit status."""
    try:
        asyncio.run(_run(settings, crashes))
    except (Exception, BaseExceptionGroup) as error:
        cause = first_cause(error)
        reason = f"{type(cause).__name__}: {cause}"
        if isinstance(cause, KernelUnsupported | OSError):
            _log.error("ztunnel cannot go on", reason=reason)
            return 1
        if isinstance(cause, EngineFatal):
            _log.error("ztunnel has failed", reason=reason)
        else:
            _log.exception("ztunnel has failed", reason=reason)
        return CRASHED
    return 0


async def _run(settings: ZtunnelSettings, crashes: int) -> None:
    await Ztunnel(settings, crashes).run()
