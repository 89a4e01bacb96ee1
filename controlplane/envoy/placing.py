"""Resources with the view that they are for, and what they were made of."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import extension_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2

from controlplane.routing.ir import ConnectionRule, HttpRule, Target
from meshapi import names
from meshkit.kube import Key
from meshkit.xds.source import Resource, versioned

Source = tuple[str, Key]
"""Kind and key of an object."""
Message: TypeAlias = (
    cluster_pb2.Cluster
    | endpoint_pb2.ClusterLoadAssignment
    | listener_pb2.Listener
    | extension_pb2.TypedExtensionConfig
    | route_pb2.RouteConfiguration
    | secret_pb2.Secret
)


@dataclass(frozen=True, slots=True)
class Placed:
    """A resource of one view.

    Attributes:
        view: key of the Gateway, a waypoint's or one at the edge.
        type_url: of the resource.
        resource: the resource.
    """

    view: Key
    type_url: str
    resource: Resource


@dataclass(frozen=True, slots=True)
class Effect:
    """What a patch of an EnvoyFilter has done at one place.

    Attributes:
        key: the EnvoyFilter.
        index: position of the patch.
        problem: why it could not be applied; empty: it was.
    """

    key: Key
    index: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Made:
    """What is made for one service, or for one waypoint.

    Attributes:
        placed: the resources.
        sources: routing objects that have a part in them.
        foreign: targets of routes that are no services of the waypoint, by view.
        effects: of patches.
        credentials: Secrets that clusters need for TLS, by view and name.
    """

    placed: tuple[Placed, ...]
    sources: frozenset[Source] = frozenset()
    foreign: frozenset[tuple[Key, Target]] = frozenset()
    effects: frozenset[Effect] = frozenset()
    credentials: frozenset[tuple[Key, str]] = frozenset()


def placed(view: Key, messages: Iterable[Message]) -> tuple[Placed, ...]:
    """Return messages as resources of a view."""
    return tuple(Placed(view, f"type.googleapis.com/{one.DESCRIPTOR.full_name}", _resource(one)) for one in messages)


def origins(rules: Iterable[HttpRule | ConnectionRule]) -> frozenset[Source]:
    """Return the objects that rules come from."""
    found = {one for rule in rules for one in (rule.origin, getattr(rule, "via", None)) if one is not None}
    return frozenset((one.kind, one.key) for one in found)


def _resource(message: Message) -> Resource:
    if isinstance(message, endpoint_pb2.ClusterLoadAssignment):
        return versioned(message.cluster_name, message)
    return versioned(message.name, message)


TYPES: Final = (
    names.SECRET_TYPE,
    names.CLUSTER_TYPE,
    names.ENDPOINT_TYPE,
    names.LISTENER_TYPE,
    names.EXTENSION_CONFIG_TYPE,
    names.ROUTE_TYPE,
)
"""Of layer 7 proxies."""
