"""The messages of OpenTelemetry's logs service, of which the engine has serialized the greater part.

A request is ``ExportLogsServiceRequest{ResourceLogs{Resource, ScopeLogs{InstrumentationScope, LogRecord...}}}``. The
records are taken as they are; what is around them is made once (resource, scope) or is a length.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import grpc
from google.rpc import error_details_pb2, status_pb2

from meshapi.proto import logs_pb2

METHOD = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
Response = logs_pb2.ExportLogsServiceResponse

_RESOURCE_LOGS = logs_pb2.ExportLogsServiceRequest.RESOURCE_LOGS_FIELD_NUMBER
_SCOPE_LOGS = logs_pb2.ResourceLogs.SCOPE_LOGS_FIELD_NUMBER
_SCOPE = "access"
_STATUS_DETAILS = "grpc-status-details-bin"

_TRANSIENT = (
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS,
)
"""Codes after which a request is sent again (OTLP specification, "Failures"). RESOURCE_EXHAUSTED is among them only
where the collector says when: else it may mean a request that is too large, today and tomorrow."""


class Envelope:
    """Makes requests of one resource."""

    def __init__(self, attributes: Mapping[str, str], version: str) -> None:
        resource = logs_pb2.Resource(
            attributes=[
                logs_pb2.KeyValue(key=key, value=logs_pb2.AnyValue(string_value=value))
                for key, value in attributes.items()
                if value
            ]
        )
        scope = logs_pb2.InstrumentationScope(name=_SCOPE, version=version)
        self._resource = logs_pb2.ResourceLogs(resource=resource).SerializeToString()
        self._scope = logs_pb2.ScopeLogs(scope=scope).SerializeToString()

    def request(self, records: Iterable[bytes]) -> bytes:
        """Return a serialized request of serialized elements of ``ScopeLogs.log_records``."""
        scope_logs = b"".join((self._scope, *records))
        resource_logs = b"".join((self._resource, _head(_SCOPE_LOGS, len(scope_logs)), scope_logs))
        return _head(_RESOURCE_LOGS, len(resource_logs)) + resource_logs


def _head(field: int, length: int) -> bytes:
    """Key and length of a nested message; the fields here have numbers below 16."""
    encoded = bytearray([field << 3 | 2])
    while length > 0x7F:
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    encoded.append(length)
    return bytes(encoded)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request was not taken.

    Attributes:
        code: name of the status code; the same trouble has the same.
        detail: for a person.
        again: whether to retry the request.
        after_s: how long the collector wants to be left alone.
    """

    code: str
    detail: str
    again: bool
    after_s: float = 0.0

    @classmethod
    def of(cls, error: grpc.aio.AioRpcError) -> "Failure":
        """Classify a failed call."""
        after_s = _retry_after_s(error)
        exhausted = error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and after_s is not None
        again = error.code() in _TRANSIENT or exhausted
        return cls(error.code().name, error.details() or "", again, after_s or 0.0)


def _retry_after_s(error: grpc.aio.AioRpcError) -> float | None:
    """Seconds of ``google.rpc.RetryInfo`` in the error's details."""
    packed = dict(error.trailing_metadata() or ()).get(_STATUS_DETAILS)
    if not isinstance(packed, bytes):
        return None
    retry = error_details_pb2.RetryInfo()
    try:
        details = status_pb2.Status.FromString(packed).details
        found = any(detail.Unpack(retry) for detail in details)
    except ValueError:  # DecodeError
        return None
    return max(0.0, retry.retry_delay.ToTimedelta().total_seconds()) if found else None
