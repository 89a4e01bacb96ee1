"""An external authorizer over gRPC: Envoy's ``envoy.service.auth.v3.Authorization``.

It lets a request through that has the headers which its pod requires. The pod's own headers are added to such a
request, and to the answer of one that is refused.
"""

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc.aio
from envoy.config.core.v3 import base_pb2
from envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc
from envoy.type.v3 import http_status_pb2
from google.rpc import code_pb2, status_pb2

from tests.scenarios.pods import Pod, Request

_REFUSED = 403


@contextlib.asynccontextmanager
async def serving(pod: Pod, port: int, note: Callable[[Request], None]) -> AsyncIterator[None]:
    """Serve at a pod's address; ``note`` gets what is asked."""

    class Authorization(external_auth_pb2_grpc.AuthorizationServicer):
        async def Check(self, request: Any, _: Any) -> external_auth_pb2.CheckResponse:
            asked = request.attributes.request.http
            body = asked.body or asked.raw_body.decode(errors="replace")
            note(Request(pod.service, pod.version, pod.name, asked.method, asked.path, dict(asked.headers), body))
            return _answer(pod, asked.headers)

    server = grpc.aio.server()
    external_auth_pb2_grpc.add_AuthorizationServicer_to_server(Authorization(), server)
    server.add_insecure_port(f"{pod.addresses[0]}:{port}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(None)


def _answer(pod: Pod, headers: Any) -> external_auth_pb2.CheckResponse:
    does = pod.behaviour
    added = [
        base_pb2.HeaderValueOption(header=base_pb2.HeaderValue(key=name, value=value))
        for name, value in does.headers.items()
    ]
    if all(headers.get(name) == value for name, value in does.requires.items()):
        granted = external_auth_pb2.OkHttpResponse(headers=added)
        return external_auth_pb2.CheckResponse(status=status_pb2.Status(code=code_pb2.OK), ok_response=granted)
    refused = external_auth_pb2.DeniedHttpResponse(
        status=http_status_pb2.HttpStatus(code=_REFUSED), headers=added, body=does.body
    )
    return external_auth_pb2.CheckResponse(
        status=status_pb2.Status(code=code_pb2.PERMISSION_DENIED), denied_response=refused
    )
