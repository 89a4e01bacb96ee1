"""Istio's standard metrics, from stock Envoy: its access logger for statistics, with the labels as command operators.

Names, labels and units: Istio, "Istio Standard Metrics". The waypoint's host takes Envoy's prefix off.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, TypeVar

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.data.accesslog.v3 import accesslog_pb2 as data_pb2
from envoy.extensions.access_loggers.stats.v3 import stats_pb2

from controlplane.envoy import names, peer
from controlplane.envoy.packing import packed
from controlplane.routing.services import Service
from controlplane.routing.telemetry.metrics import Change, Changes
from meshapi import cel

Config: Final = stats_pb2.Config
LOGGER: Final = "envoy.access_loggers.stats"
_PREFIX: Final = "istio"
_REPORTER: Final = "waypoint"
_HOST: Final = f"xds.upstream_host_metadata.filter_metadata['{names.TELEMETRY_METADATA}']"
_CLUSTER: Final = f"xds.cluster_metadata.filter_metadata['{names.TELEMETRY_METADATA}']"


def _has(part: str) -> str:
    """Return whether metadata says something; there is none of a part that was not chosen."""
    return f"has(xds.{part}) && '{names.TELEMETRY_METADATA}' in xds.{part}.filter_metadata"


_HAS_HOST: Final = _has("upstream_host_metadata")
_HAS_CLUSTER: Final = _has("cluster_metadata")
MetricT = TypeVar("MetricT", stats_pb2.Config.Counter, stats_pb2.Config.Histogram)
_PEER_TAGS: Final = {
    "workload": "workload",
    "namespace": "namespace",
    "cluster_id": "cluster",
    "canonical_service": "service",
    "canonical_revision": "revision",
    "app": "service",
    "app_version": "revision",
}
_AS_IT_IS: Final = Change()
_IDENTITY: Final = "identity"
UNKNOWN: Final = peer.UNKNOWN
DESCRIBED: Final = ("workload", "namespace", "service", "revision", "cluster")
"""What is said of a workload, in this order."""
_GRPC: Final = "'content-type' in request.headers && request.headers['content-type'].startsWith('application/grpc')"


def of_requests(destination: Mapping[str, str], changes: Changes) -> Iterator[accesslog_pb2.AccessLog]:
    """Yield the logger that counts requests, unless nothing of them is counted.

    Args:
        destination: labels of where they go.
        changes: what users want otherwise.
    """
    common = {**_common(destination), "request_protocol": f"%CEL({_GRPC} ? 'grpc' : 'http')%"}
    labels = {
        **common,
        "response_code": "%RESPONSE_CODE%",
        "grpc_response_status": "%GRPC_STATUS_NUMBER%",
        "response_flags": "%RESPONSE_FLAGS%",
    }
    unit = Config.Histogram
    counters = [_counter("requests_total", labels)]
    histograms = [
        _histogram("request_duration_milliseconds", labels, "%DURATION%", unit.Milliseconds),
        _histogram("request_bytes", labels, "%DOWNSTREAM_WIRE_BYTES_RECEIVED%", unit.Bytes),
        _histogram("response_bytes", labels, "%DOWNSTREAM_WIRE_BYTES_SENT%", unit.Bytes),
    ]
    config = _changed(counters, histograms, changes)
    if config is not None:
        yield accesslog_pb2.AccessLog(name=LOGGER, typed_config=packed(config))


def of_connections(destination: Mapping[str, str], changes: Changes) -> Iterator[accesslog_pb2.AccessLog]:
    """Yield the loggers that count connections: one when the endpoint is connected, one at the end.

    Args: see ``of_requests``.
    """
    labels = {**_common(destination), "request_protocol": "tcp", "response_flags": "%RESPONSE_FLAGS%"}
    at_start = [_counter("tcp_connections_opened_total", labels)]
    at_end = [
        _counter("tcp_connections_closed_total", labels),
        _counter("tcp_sent_bytes_total", labels, "%BYTES_SENT%"),
        _counter("tcp_received_bytes_total", labels, "%BYTES_RECEIVED%"),
    ]
    for moment, counters in ((data_pb2.TcpUpstreamConnected, at_start), (data_pb2.TcpConnectionEnd, at_end)):
        config = _changed(counters, [], changes)
        if config is not None:
            result = accesslog_pb2.AccessLog(name=LOGGER, typed_config=packed(config))
            result.filter.log_type_filter.types.append(moment)
            yield result


def _changed(
    counters: Iterable[stats_pb2.Config.Counter], histograms: Iterable[stats_pb2.Config.Histogram], changes: Changes
) -> stats_pb2.Config | None:
    """Return the metrics that are left, with the labels that users want; ``None``: none is."""
    result = Config(stat_prefix=_PREFIX)
    for counter in counters:
        change = changes.get(counter.stat.name, _AS_IT_IS)
        if not change.is_off:
            _label(result.counters.add(), counter, change)
    for histogram in histograms:
        change = changes.get(histogram.stat.name, _AS_IT_IS)
        if not change.is_off:
            _label(result.histograms.add(), histogram, change)
    return result if result.counters or result.histograms else None


def _label(to: MetricT, of: MetricT, change: Change) -> None:
    to.CopyFrom(of)
    tags = {tag.name: tag.value_format for tag in of.stat.tags} | {
        name: None if expression is None else value(expression) for name, expression in change.labels.items()
    }
    del to.stat.tags[:]
    to.stat.tags.extend(Config.Tag(name=name, value_format=form) for name, form in tags.items() if form is not None)


def value(expression: str) -> str:
    """Return the format of an expression of users: texts are joined by the format, Envoy's expressions join none."""
    return "".join(map(_part, cel.joined(expression)))


def _part(expression: str) -> str:
    text = cel.text_of(expression)
    if text is not None:
        return text.replace("%", "%%")
    return f"%CEL({cel.without_percent(cel.without_outer_string(expression))})%"


def of_service(service: Service, cluster: str) -> dict[str, str]:
    """Return the labels of a service as the destination, with the chosen endpoint.

    Args:
        service: the service.
        cluster: name of Kubernetes' cluster.
    """
    return {
        **_workload(_endpoint),
        "destination_service": _upstream("host", service.host),
        "destination_service_name": _upstream("name", service.key[1]),
        "destination_service_namespace": _upstream("namespace", service.namespace),
        "destination_cluster": f"%CEL({_HAS_HOST} ? {_HOST}['cluster'] : '{cluster}')%",
    }


def of_workloads(cluster: str) -> dict[str, str]:
    """Return the labels of a workload that was called by its own address: no service has a part in it.

    Args:
        cluster: name of Kubernetes' cluster.
    """

    def described(key: str) -> str:
        return _upstream(key, UNKNOWN)

    return {
        **_workload(described),
        "destination_service": UNKNOWN,
        "destination_service_name": UNKNOWN,
        "destination_service_namespace": described("namespace"),
        "destination_cluster": _upstream("cluster", cluster),
    }


def of_gateway(name: str, namespace: str, account: str, cluster: str) -> dict[str, str]:
    """Return the labels of what a gateway sends on: it is the source, and reports as such.

    Args:
        name: of the gateway's workload.
        namespace: of the gateway.
        account: the gateway's identity.
        cluster: name of Kubernetes' cluster.
    """

    def chosen(key: str) -> str:
        return _upstream(key, UNKNOWN)

    return {
        "reporter": "source",
        "source_workload": name,
        "source_canonical_service": name,
        "source_canonical_revision": "latest",
        "source_workload_namespace": namespace,
        "source_principal": account,
        "source_app": name,
        "source_version": "latest",
        "source_cluster": cluster,
        **_workload(_endpoint),
        "destination_service": chosen("host"),
        "destination_service_name": chosen("name"),
        "destination_service_namespace": chosen("namespace"),
        "destination_cluster": f"%CEL({_HAS_HOST} ? {_HOST}['cluster'] : '{UNKNOWN}')%",
        "connection_security_policy": UNKNOWN,
    }


def _workload(part: Callable[[str], str]) -> dict[str, str]:
    return {
        "destination_workload": part("workload"),
        "destination_workload_namespace": part("namespace"),
        "destination_principal": part(_IDENTITY),
        "destination_app": part("service"),
        "destination_version": part("revision"),
        "destination_canonical_service": part("service"),
        "destination_canonical_revision": part("revision"),
    }


def _common(destination: Mapping[str, str]) -> dict[str, str]:
    """Return the labels of both ends; what its tunnel says describes the source."""
    principal = f"'{names.SOURCE_PRINCIPAL_STATE}' in filter_state"
    return {
        "reporter": _REPORTER,
        "source_workload": _source("workload"),
        "source_canonical_service": _source("service"),
        "source_canonical_revision": _source("revision"),
        "source_workload_namespace": _source("namespace"),
        "source_principal": f"%CEL({principal} ? filter_state['{names.SOURCE_PRINCIPAL_STATE}'] : 'unknown')%",
        "source_app": _source("service"),
        "source_version": _source("revision"),
        "source_cluster": _source("cluster"),
        "connection_security_policy": f"%CEL({principal} ? 'mutual_tls' : 'none')%",
        **destination,
    }


def peer_tags() -> Iterator[tuple[str, str]]:
    """Yield Istio's tags of spans about both ends: name and format."""
    for name, part in _PEER_TAGS.items():
        yield f"istio.source_{name}", _source(part)
        yield f"istio.destination_{name}", _endpoint(part)


def _source(part: str) -> str:
    return f"%FILTER_STATE({peer.state(part)}:PLAIN)%"


def _endpoint(key: str) -> str:
    return f"%CEL({_HAS_HOST} ? {_HOST}['{key}'] : 'unknown')%"


def _upstream(key: str, own: str) -> str:
    """Return a word about what was chosen, which its cluster has; ``own`` where a request was answered at once."""
    return f"%CEL({_HAS_CLUSTER} ? {_CLUSTER}['{key}'] : '{own}')%"


def _stat(name: str, labels: Mapping[str, str]) -> stats_pb2.Config.Stat:
    tags = [Config.Tag(name=label, value_format=value) for label, value in labels.items()]
    return Config.Stat(name=name, tags=tags)


def _counter(name: str, labels: Mapping[str, str], value: str = "") -> stats_pb2.Config.Counter:
    result = Config.Counter(stat=_stat(name, labels))
    if value:
        result.value_format = value
    else:
        result.value_fixed.value = 1
    return result


def _histogram(name: str, labels: Mapping[str, str], value: str, unit: int) -> stats_pb2.Config.Histogram:
    return Config.Histogram(stat=_stat(name, labels), unit=unit, value_format=value)
