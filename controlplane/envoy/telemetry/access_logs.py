"""Access loggers: each with a filter of what it is for. Facts: Istio's ``pilot/pkg/networking/core/accesslog.go``."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import base_pb2, config_source_pb2, grpc_service_pb2
from envoy.data.accesslog.v3 import accesslog_pb2 as data_pb2
from envoy.extensions.access_loggers.file.v3 import file_pb2
from envoy.extensions.access_loggers.filters.cel.v3 import cel_pb2
from envoy.extensions.access_loggers.grpc.v3 import als_pb2
from envoy.extensions.access_loggers.open_telemetry.v3 import logs_service_pb2
from google.protobuf.message import Message

from controlplane.envoy.packing import packed
from controlplane.envoy.telemetry import formats
from controlplane.routing.telemetry.access_logs import Log
from meshapi.mesh_config.log_providers import (
    Collector,
    ConnectionLog,
    EnvoyLog,
    FileLog,
    OpenTelemetryLog,
    RequestLog,
)
from meshapi.mesh_config.model import MeshConfig

AccessLog: Final = accesslog_pb2.AccessLog
Filter: Final = accesslog_pb2.AccessLogFilter
Clusters = Callable[[Collector], str]
"""Returns the cluster of a service that is sent to."""
_CEL: Final = "envoy.access_loggers.extension_filters.cel"
_FAILED: Final = 400
_UNSET: Final = "culvert.unset"
"""Key of a runtime value. The API requires one; it is never set."""


def of_requests(logs: Iterable[Log], config: MeshConfig, clusters: Clusters) -> Iterator[accesslog_pb2.AccessLog]:
    """Yield the loggers of requests.

    Args:
        logs: where is logged.
        config: the mesh configuration, for formats.
        clusters: returns the cluster of a collector.
    """
    yield from _of_kinds(logs, config, clusters, ConnectionLog, [])


def of_connections(logs: Iterable[Log], config: MeshConfig, clusters: Clusters) -> Iterator[accesslog_pb2.AccessLog]:
    """Yield the loggers of connections that carry no requests: one line for each, at its end. See ``of_requests``."""
    at_end = Filter()
    at_end.log_type_filter.types.append(data_pb2.TcpConnectionEnd)
    yield from _of_kinds(logs, config, clusters, RequestLog, [at_end])


def of_failed_tunnels_in(
    logs: Iterable[Log], config: MeshConfig, clusters: Clusters
) -> Iterator[accesslog_pb2.AccessLog]:
    """Yield the loggers of clients' tunnels that are refused; the others are logged by what they carry."""
    failed = Filter()
    failed.status_code_filter.comparison.op = accesslog_pb2.ComparisonFilter.GE
    value = base_pb2.RuntimeUInt32(default_value=_FAILED, runtime_key=_UNSET)
    failed.status_code_filter.comparison.value.CopyFrom(value)
    yield from _of_kinds(logs, config, clusters, ConnectionLog, [failed])


def of_failed_tunnels_out(
    logs: Iterable[Log], config: MeshConfig, clusters: Clusters
) -> Iterator[accesslog_pb2.AccessLog]:
    """Yield the loggers of tunnels to endpoints that could not be opened: only here is known why."""
    failed = Filter()
    failed.response_flag_filter.flags.append("UF")
    yield from _of_kinds(logs, config, clusters, RequestLog, [failed])


def _of_kinds(
    logs: Iterable[Log],
    config: MeshConfig,
    clusters: Clusters,
    unsuited: type[EnvoyLog],
    filters: list[accesslog_pb2.AccessLogFilter],
) -> Iterator[accesslog_pb2.AccessLog]:
    for log in logs:
        if not isinstance(log.provider.access_log, unsuited):
            yield _logger(log, config, clusters, filters)


def _logger(
    log: Log, config: MeshConfig, clusters: Clusters, filters: list[accesslog_pb2.AccessLogFilter]
) -> accesslog_pb2.AccessLog:
    to = log.provider.access_log
    if isinstance(to, FileLog):
        of_file = file_pb2.FileAccessLog(path=to.path, log_format=formats.of_file(log.provider.name, to, config))
        result = _packed("envoy.access_loggers.file", of_file)
    elif isinstance(to, OpenTelemetryLog):
        result = _packed("envoy.access_loggers.open_telemetry", _records(to, clusters))
    elif isinstance(to, RequestLog):
        result = _packed("envoy.access_loggers.http_grpc", _requests(to, clusters))
    elif isinstance(to, ConnectionLog):
        common = _common(to, to.log_name or "tcp_envoy_accesslog", clusters, to.filter_state_objects_to_log)
        result = _packed("envoy.access_loggers.tcp_grpc", als_pb2.TcpGrpcAccessLogConfig(common_config=common))
    else:
        raise TypeError(f"provider {log.provider.name} takes no access logs")
    both = [*filters, *([_expression(log.expression)] if log.expression else [])]
    if len(both) == 1:
        result.filter.CopyFrom(both[0])
    elif both:
        result.filter.and_filter.filters.extend(both)
    return result


def _packed(name: str, config: Message) -> accesslog_pb2.AccessLog:
    return AccessLog(name=name, typed_config=packed(config))


def _expression(text: str) -> accesslog_pb2.AccessLogFilter:
    config = cel_pb2.ExpressionFilter(expression=text)
    config.cel_config.enable_string_conversion = True
    config.cel_config.enable_string_concat = True
    config.cel_config.enable_string_functions = True
    result = Filter()
    result.extension_filter.name = _CEL
    result.extension_filter.typed_config.CopyFrom(packed(config))
    return result


def _records(to: OpenTelemetryLog, clusters: Clusters) -> logs_service_pb2.OpenTelemetryAccessLogConfig:
    text = (to.log_format.text if to.log_format is not None else "") or formats.DEFAULT_TEXT
    labels = to.log_format.labels if to.log_format is not None else {}
    result = logs_service_pb2.OpenTelemetryAccessLogConfig(
        common_config=_common(to, to.log_name or "otel_envoy_accesslog", clusters),
        disable_builtin_labels=True,
        formatters=formats.formatters([text, labels]),
    )
    result.body.string_value = text
    for key in sorted(labels):
        result.attributes.values.add(key=key).value.string_value = str(labels[key])
    return result


def _requests(to: RequestLog, clusters: Clusters) -> als_pb2.HttpGrpcAccessLogConfig:
    return als_pb2.HttpGrpcAccessLogConfig(
        common_config=_common(to, to.log_name or "http_envoy_accesslog", clusters, to.filter_state_objects_to_log),
        additional_request_headers_to_log=to.additional_request_headers_to_log,
        additional_response_headers_to_log=to.additional_response_headers_to_log,
        additional_response_trailers_to_log=to.additional_response_trailers_to_log,
    )


def _common(
    to: Collector, name: str, clusters: Clusters, states: Iterable[str] = ()
) -> als_pb2.CommonGrpcAccessLogConfig:
    envoy = grpc_service_pb2.GrpcService.EnvoyGrpc(cluster_name=clusters(to), authority=to.host)
    return als_pb2.CommonGrpcAccessLogConfig(
        log_name=name,
        grpc_service=grpc_service_pb2.GrpcService(envoy_grpc=envoy),
        transport_api_version=config_source_pb2.V3,
        filter_state_objects_to_log=states,
    )
