"""A collector of OpenTelemetry's log records and spans, and of Envoy's access logs, over gRPC.

It writes each record as a line of JSON: ``kind`` (``log``, ``span``, ``request``, ``connection``), and what it has.
"""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from envoy.service.accesslog.v3 import als_pb2
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

Line = dict[str, Any]


def _attributes(pairs: Any) -> Line:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return getattr(value, kind) if kind else None


def _logs(request: Any) -> Iterator[Line]:
    for one in request.resource_logs:
        for scope in one.instrumentation_library_logs:  # the former name of scope_logs
            for record in scope.logs:
                resource = _attributes(one.resource.attributes)
                yield {"kind": "log", "body": record.body.string_value} | resource | _attributes(record.attributes)


def spans(request: Any) -> Iterator[Line]:
    """The spans of a request, as lines."""
    for one in request.resource_spans:
        for scope in one.instrumentation_library_spans:
            for span in scope.spans:
                known = {
                    "kind": "span", "name": span.name, "of": span.kind, "trace": span.trace_id.hex(),
                    "parent": span.parent_span_id.hex(),
                }  # fmt: skip
                yield known | _attributes(one.resource.attributes) | _attributes(span.attributes)


def _access_logs(name: str, message: Any) -> Iterator[Line]:
    for entry in message.http_logs.log_entry:
        headers = dict(entry.request.request_headers)
        yield {"kind": "request", "log": name, "path": entry.request.path, "headers": headers}
    for entry in message.tcp_logs.log_entry:
        yield {"kind": "connection", "log": name, "received": entry.connection_properties.received_bytes}


def _write(file: Path, lines: Iterator[Line]) -> None:
    with file.open("a") as output:
        output.writelines(f"{json.dumps(line)}\n" for line in lines)


@asynccontextmanager
async def serving(address: str, port: int, file: Path) -> AsyncIterator[None]:
    """Serve, and append to a file."""
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))

    async def export(read: Any, answer: Any, request: Any, _: Any) -> Any:
        _write(file, read(request))
        return answer()

    async def stream(messages: Any, _: Any) -> Any:
        name = ""
        async for message in messages:
            name = message.identifier.log_name or name
            _write(file, _access_logs(name, message))
        return als_pb2.StreamAccessLogsResponse()

    for service, module, read in (("logs", logs_service_pb2, _logs), ("trace", trace_service_pb2, spans)):
        title = service.title()
        request, answer = (getattr(module, f"Export{title}Service{kind}") for kind in ("Request", "Response"))
        handler = grpc.unary_unary_rpc_method_handler(
            partial(export, read, answer),
            request_deserializer=request.FromString,
            response_serializer=answer.SerializeToString,
        )
        name = f"opentelemetry.proto.collector.{service}.v1.{title}Service"
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"Export": handler}),))
    handler = grpc.stream_unary_rpc_method_handler(
        stream,
        request_deserializer=als_pb2.StreamAccessLogsMessage.FromString,
        response_serializer=als_pb2.StreamAccessLogsResponse.SerializeToString,
    )
    name = "envoy.service.accesslog.v3.AccessLogService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"StreamAccessLogs": handler}),))
    server.add_insecure_port(f"{address}:{port}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(0)
