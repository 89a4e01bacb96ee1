"""Forms of access log lines. The default ones are Istio's (``pilot/pkg/model/telemetry_logging.go``)."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from envoy.config.core.v3 import extension_pb2, substitution_format_string_pb2
from envoy.extensions.formatter.req_without_query.v3 import req_without_query_pb2

from controlplane.envoy.packing import extension
from meshapi.mesh_config import access_log_format, providers
from meshapi.mesh_config.log_providers import FileFormat, FileLog
from meshapi.mesh_config.model import AccessLogEncoding, MeshConfig

Format: Final = substitution_format_string_pb2.SubstitutionFormatString
DEFAULT_LABELS: Final = {
    "start_time": "%START_TIME%",
    "route_name": "%ROUTE_NAME%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "protocol": "%PROTOCOL%",
    "response_code": "%RESPONSE_CODE%",
    "response_flags": "%RESPONSE_FLAGS%",
    "response_code_details": "%RESPONSE_CODE_DETAILS%",
    "connection_termination_details": "%CONNECTION_TERMINATION_DETAILS%",
    "upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "duration": "%DURATION%",
    "upstream_service_time": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    "x_forwarded_for": "%REQ(X-FORWARDED-FOR)%",
    "user_agent": "%REQ(USER-AGENT)%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "authority": "%REQ(:AUTHORITY)%",
    "upstream_host": "%UPSTREAM_HOST%",
    "upstream_cluster": "%UPSTREAM_CLUSTER_RAW%",
    "upstream_local_address": "%UPSTREAM_LOCAL_ADDRESS%",
    "downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "requested_server_name": "%REQUESTED_SERVER_NAME%",
}
_QUOTED: Final = {
    "upstream_transport_failure_reason", "x_forwarded_for", "user_agent", "request_id", "authority", "upstream_host",
}  # fmt: skip
_IN_REQUEST: Final = ("method", "path", "protocol")
_FIRST: Final = ("start_time", "route_name", *_IN_REQUEST)


def _default_text() -> str:
    """Return the line: start, request, the other values in the order of the labels, and the name of the route."""
    labels = DEFAULT_LABELS
    request = " ".join(labels[one] for one in _IN_REQUEST)
    rest = [f'"{value}"' if name in _QUOTED else value for name, value in labels.items() if name not in _FIRST]
    return f'[{labels["start_time"]}] "{request}" {" ".join(rest)} {labels["route_name"]}\n'


DEFAULT_TEXT: Final = _default_text()
_WITHOUT_QUERY: Final = "REQ_WITHOUT_QUERY"


def of_file(name: str, log: FileLog, config: MeshConfig) -> substitution_format_string_pb2.SubstitutionFormatString:
    """Return the format of a file's lines.

    Args:
        name: of the provider: the one that is always there has the format of the mesh configuration.
        log: the file.
        config: the mesh configuration.
    """
    given = log.log_format
    if given is None and name == providers.ENVOY and not log.omit_empty_values:
        given = _of_mesh(config)
    result = Format(omit_empty_values=log.omit_empty_values)
    if given is not None and given.labels is not None:
        labels = given.labels or DEFAULT_LABELS
        result.json_format.update(labels)
        result.formatters.extend(formatters(labels))
    else:
        text = (given.text if given is not None else "") or DEFAULT_TEXT
        result.text_format_source.inline_string = text if text.endswith("\n") else f"{text}\n"
        result.formatters.extend(formatters(text))
    return result


def formatters(value: Any) -> Iterable[extension_pb2.TypedExtensionConfig]:
    """Yield the extensions that the operators of a format need."""
    if _WITHOUT_QUERY in set(_operators(value)):
        yield extension("envoy.formatter.req_without_query", req_without_query_pb2.ReqWithoutQuery())


def _of_mesh(config: MeshConfig) -> FileFormat:
    if config.access_log_encoding is AccessLogEncoding.TEXT:
        return FileFormat(text=config.access_log_format)
    return FileFormat(labels=json.loads(config.access_log_format) if config.access_log_format else {})


def _operators(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield from access_log_format.envoy_operators(value)
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _operators(one)
    elif isinstance(value, list):
        for one in value:
            yield from _operators(one)
