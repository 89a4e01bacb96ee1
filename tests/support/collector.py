"""An OpenTelemetry collector for logs only, with configurable answers. For a real one see `tests/interop`."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from meshapi.proto import logs_pb2 as logs

Value = str | int


@dataclass(frozen=True)
class Refuse:
    """Answer a request with an error."""

    code: grpc.StatusCode
    retry_after_s: float | None = None

    @property
    def details(self) -> bytes:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round((self.retry_after_s or 0) * 1000))
        packed = any_pb2.Any()
        packed.Pack(error_details_pb2.RetryInfo(retry_delay=delay))
        return status_pb2.Status(code=self.code.value[0], details=[packed]).SerializeToString()


@dataclass(frozen=True)
class Partial:
    """Accept a request, and report that some of its records were rejected."""

    rejected: int
    message: str


@dataclass
class Collector:
    """The requests received, and the next answers: by default success."""

    requests: list[logs.ExportLogsServiceRequest] = field(default_factory=list)
    metadata: list[dict[str, str | bytes]] = field(default_factory=list)
    answers: deque[Refuse | Partial] = field(default_factory=deque)
    attempts: int = 0
    silent: asyncio.Event | None = None
    """No request is answered until it is set."""

    async def Export(self, request, context):
        self.attempts += 1
        if self.silent is not None:
            await self.silent.wait()
        answer = self.answers.popleft() if self.answers else None
        if isinstance(answer, Refuse):
            if answer.retry_after_s is not None:
                context.set_trailing_metadata((("grpc-status-details-bin", answer.details),))
            await context.abort(answer.code, "as configured")
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        if answer is None:
            return logs.ExportLogsServiceResponse()
        partial = logs.ExportLogsPartialSuccess(rejected_log_records=answer.rejected, error_message=answer.message)
        return logs.ExportLogsServiceResponse(partial_success=partial)

    @property
    def records(self) -> list[logs.LogRecord]:
        scopes = [scope for request in self.requests for one in request.resource_logs for scope in one.scope_logs]
        return [record for scope in scopes for record in scope.log_records]

    def connections(self, **wanted: Value) -> list[dict[str, Value]]:
        """Attributes of the records that have these (dots written as ``__``)."""
        expected = {key.replace("__", "."): value for key, value in wanted.items()}.items()
        return [found for record in self.records if expected <= (found := attributes(record.attributes)).items()]


def attributes(pairs: list[logs.KeyValue]) -> dict[str, Value]:
    found = {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
    assert len(found) == len(pairs), "keys of attributes are unique"
    return found


Listen = Callable[[grpc.aio.Server], int]


def plain(server: grpc.aio.Server) -> int:
    return server.add_insecure_port("127.0.0.1:0")


@asynccontextmanager
async def collecting(collector: Collector, listen: Listen = plain) -> AsyncIterator[int]:
    """Serve; yields the port."""
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    export = grpc.unary_unary_rpc_method_handler(
        collector.Export,
        request_deserializer=logs.ExportLogsServiceRequest.FromString,
        response_serializer=logs.ExportLogsServiceResponse.SerializeToString,
    )
    service = "opentelemetry.proto.collector.logs.v1.LogsService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": export}),))
    port = listen(server)
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)
