"""Registering discovery services. Generated code would encode a response for each stream; here it arrives encoded."""

from collections.abc import Callable
from typing import Any

import grpc
from envoy.service.discovery.v3 import discovery_pb2

Method = tuple[str, Callable[..., Any]]
"""A method's name and what serves it."""


def register(server: grpc.aio.Server, service: str, *, whole: Method, delta: Method) -> None:
    """Register both variants of a discovery service.

    Args:
        server: one that has not been started.
        service: full name of the service.
        whole: the state-of-the-world method; takes and writes messages.
        delta: the incremental method; takes messages and writes serialized ones.
    """
    handlers = {
        whole[0]: grpc.stream_stream_rpc_method_handler(
            whole[1],
            request_deserializer=discovery_pb2.DiscoveryRequest.FromString,
            response_serializer=discovery_pb2.DiscoveryResponse.SerializeToString,
        ),
        delta[0]: grpc.stream_stream_rpc_method_handler(
            delta[1], request_deserializer=discovery_pb2.DeltaDiscoveryRequest.FromString, response_serializer=bytes
        ),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
