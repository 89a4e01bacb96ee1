"""What waypoints and gateways report of their traffic, and of tunnels."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from envoy.config.accesslog.v3 import accesslog_pb2

from controlplane.envoy import metrics
from controlplane.envoy.placing import Source
from controlplane.envoy.telemetry import access_logs
from controlplane.envoy.telemetry.tracing import Spans
from controlplane.envoy.upstreams import Upstreams
from controlplane.gateways.listener import EdgeGateway
from controlplane.graph.derived import Fetch
from controlplane.routing.collections import RoutingCollections
from controlplane.routing.ir import Target
from controlplane.routing.services import Service
from controlplane.routing.telemetry import access_logs as routed_logs
from controlplane.routing.telemetry import collectors, tracing
from controlplane.routing.telemetry import metrics as routed_metrics
from controlplane.routing.telemetry.scope import Telemetries
from controlplane.routing.telemetry.tracing import Traces
from meshapi.identity import SpiffeId
from meshapi.mesh_config.log_providers import Collector, Message
from meshapi.mesh_config.providers import ExtensionProvider
from meshapi.resources.telemetry import Telemetry


@dataclass(frozen=True, slots=True)
class Reports:
    """What is reported of the traffic of a service.

    Attributes:
        requests: loggers of requests.
        connections: loggers of connections that carry none.
        spans: how spans of requests are reported; ``None``: not at all.
    """

    requests: tuple[accesslog_pb2.AccessLog, ...] = ()
    connections: tuple[accesslog_pb2.AccessLog, ...] = ()
    spans: Spans | None = None


@dataclass(frozen=True, slots=True)
class TunnelReports:
    """What is reported of tunnels.

    Attributes:
        taken: loggers of clients' tunnels.
        opened: loggers of tunnels to endpoints.
    """

    taken: tuple[accesslog_pb2.AccessLog, ...] = ()
    opened: tuple[accesslog_pb2.AccessLog, ...] = ()


class Reporting:
    """Computes reports out of Telemetries and the mesh configuration."""

    def __init__(self, routing: RoutingCollections, telemetries: Telemetries) -> None:
        self._routing = routing
        self._telemetries = telemetries

    def of_service(self, service: Service, upstreams: Upstreams) -> Reports:
        """Return the reports of a service; notes in ``upstreams`` where they go, and whose wish they are."""
        cluster = self._routing.cluster_id(upstreams.fetch)
        return self._reports(service, metrics.of_service(service, cluster), upstreams)

    def of_workloads(self, upstreams: Upstreams) -> Reports:
        """Return the reports of the workloads that a waypoint serves by their own addresses; see ``of_service``."""
        return self._reports(None, metrics.of_workloads(self._routing.cluster_id(upstreams.fetch)), upstreams)

    def of_gateway(self, gateway: EdgeGateway, upstreams: Upstreams) -> Reports:
        """Return the reports of a gateway at the edge; see ``of_service``."""
        fetch, namespace = upstreams.fetch, gateway.key[0]
        account = str(SpiffeId(self._telemetries.mesh(fetch).trust_domain, namespace, gateway.service_account))
        cluster = self._routing.cluster_id(fetch)
        return self._reports(None, metrics.of_gateway(gateway.workload, namespace, account, cluster), upstreams)

    def _reports(self, service: Service | None, destination: Mapping[str, str], upstreams: Upstreams) -> Reports:
        fetch = upstreams.fetch
        found = self._telemetries.counting(service, upstreams.view, fetch)
        upstreams.sources.update(_sources(found))
        config = self._telemetries.config(fetch)
        providers = self._usable(fetch)
        logs = routed_logs.chosen(found, config, _of_logs(providers))
        changes = routed_metrics.chosen(found, config.default_providers.metrics, self._telemetries.providers(fetch))
        clusters = self._clusters(upstreams)
        return Reports(
            (*metrics.of_requests(destination, changes), *access_logs.of_requests(logs, config, clusters)),
            (*metrics.of_connections(destination, changes), *access_logs.of_connections(logs, config, clusters)),
            self._spans(tracing.chosen(found, config, providers), upstreams),
        )

    def of_tunnels(self, upstreams: Upstreams) -> TunnelReports:
        """Return the reports of a waypoint's tunnels; see ``of_service``."""
        fetch = upstreams.fetch
        found = self._telemetries.counting(None, upstreams.view, fetch)
        upstreams.sources.update(_sources(found))
        config = self._telemetries.config(fetch)
        logs = routed_logs.chosen(found, config, _of_logs(self._usable(fetch)))
        clusters = self._clusters(upstreams)
        return TunnelReports(
            tuple(access_logs.of_failed_tunnels_in(logs, config, clusters)),
            tuple(access_logs.of_failed_tunnels_out(logs, config, clusters)),
        )

    def _usable(self, fetch: Fetch) -> dict[str, ExtensionProvider]:
        """Return the providers that can take access logs or spans, by name."""
        return {
            name: one
            for name, one in self._telemetries.providers(fetch).items()
            if self._takes(one.access_log or one.tracing, fetch)
        }

    def _takes(self, provider: Message | None, fetch: Fetch) -> bool:
        if not isinstance(provider, Collector):
            return provider is not None
        return collectors.fault(provider, self._routing.service(provider.host, fetch)) is None

    def _spans(self, traces: Traces | None, upstreams: Upstreams) -> Spans | None:
        if traces is None or traces.provider.tracing is None:
            return None
        cluster = self._clusters(upstreams)(traces.provider.tracing)
        return Spans(traces, cluster, upstreams.view, self._telemetries.mesh(upstreams.fetch))

    def _clusters(self, upstreams: Upstreams) -> access_logs.Clusters:
        def find(collector: Collector) -> str:
            # A port that is not declared to speak HTTP has a cluster for connections only.
            service = self._routing.service(collector.host, upstreams.fetch)
            port = None if service is None else service.port(collector.port)
            target = Target(collector.host, collector.port)
            is_http = port is not None and port.protocol.is_http
            return upstreams.find(target, collector.port, is_http=is_http).cluster

        return find


def _of_logs(providers: Mapping[str, ExtensionProvider]) -> Mapping[str, ExtensionProvider]:
    return {name: one for name, one in providers.items() if one.access_log is not None}


def _sources(found: Iterable[Telemetry]) -> Iterable[Source]:
    return {("Telemetry", one.key) for one in found}
