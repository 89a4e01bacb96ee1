"""Istio's standard metrics, from stock Envoy: its access logger for statistics, with the labels as command operators.

Names, labels and units: Istio, "Istio Standard Metrics". The waypoint's host takes Envoy's prefix off.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.data.accesslog.v3 import accesslog_pb2 as data_pb2
from envoy.extensions.access_loggers.stats.v3 import stats_pb2

from controlplane.envoy import names, peer
from controlplane.envoy.packing import packed
from controlplane.routing.services import Service

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
_IDENTITY: Final = "identity"
UNKNOWN: Final = peer.UNKNOWN
DESCRIBED: Final = ("workload", "namespace", "service", "revision", "cluster")
"""What is said of a workload, in this order."""
_GRPC: Final = "'content-type' in request.headers && request.headers['content-type'].startsWith('application/grpc')"


def of_requests(destination: Mapping[str, str]) -> accesslog_pb2.AccessLog:
    """Return the logger that counts requests; ``destination`` are the labels of where they go."""
    common = {**_common(destination), "request_protocol": f"%CEL({_GRPC} ? 'grpc' : 'http')%"}
    labels = {
        **common,
        "response_code": "%RESPONSE_CODE%",
        "grpc_response_status": "%GRPC_STATUS_NUMBER%",
        "response_flags": "%RESPONSE_FLAGS%",
    }
    unit = Config.Histogram
    config = Config(
        stat_prefix=_PREFIX,
        counters=[_counter("requests_total", labels)],
        histograms=[
            _histogram("request_duration_milliseconds", labels, "%DURATION%", unit.Milliseconds),
            _histogram("request_bytes", labels, "%DOWNSTREAM_WIRE_BYTES_RECEIVED%", unit.Bytes),
            _histogram("response_bytes", labels, "%DOWNSTREAM_WIRE_BYTES_SENT%", unit.Bytes),
        ],
    )
    return accesslog_pb2.AccessLog(name=LOGGER, typed_config=packed(config))


def of_connections(destination: Mapping[str, str]) -> Iterator[accesslog_pb2.AccessLog]:
    """Yield the loggers that count connections: one when the endpoint is connected, one at the end.

    ``destination`` are the labels of where they go.
    """
    labels = {**_common(destination), "request_protocol": "tcp", "response_flags": "%RESPONSE_FLAGS%"}
    start, end = data_pb2.TcpUpstreamConnected, data_pb2.TcpConnectionEnd
    yield _at(start, Config(stat_prefix=_PREFIX, counters=[_counter("tcp_connections_opened_total", labels)]))
    counters = [
        _counter("tcp_connections_closed_total", labels),
        _counter("tcp_sent_bytes_total", labels, "%BYTES_SENT%"),
        _counter("tcp_received_bytes_total", labels, "%BYTES_RECEIVED%"),
    ]
    yield _at(end, Config(stat_prefix=_PREFIX, counters=counters))


def _at(moment: int, config: stats_pb2.Config) -> accesslog_pb2.AccessLog:
    result = accesslog_pb2.AccessLog(name=LOGGER, typed_config=packed(config))
    result.filter.log_type_filter.types.append(moment)
    return result


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
        **destination,
        "connection_security_policy": f"%CEL({principal} ? 'mutual_tls' : 'none')%",
    }


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
