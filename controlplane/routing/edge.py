"""Routes at gateways: to which listeners a route attaches, and for which hosts. Pure.

Source: Gateway API v1, ``ParentReference``, ``Listener.allowedRoutes`` and ``HTTPRouteSpec.hostnames``.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from controlplane.gateways import reading
from controlplane.gateways.listener import EdgeGateway, EdgeListener, ListenerId, intersection, owner_of
from controlplane.inputs.verdicts import Verdict
from meshapi.resources.gateway import GROUP
from meshapi.resources.gateway_routes import ParentReference
from meshkit.kube import Key

PARENTS = frozenset({"Gateway", "ListenerSet"})
"""Kinds of parents at the edge."""


@dataclass(frozen=True, slots=True)
class EdgeHost:
    """Where requests for one host, or pattern of hosts, are routed together.

    Attributes:
        gateway: key of the Gateway.
        routes: name of the routes.
        port: that clients call.
        hostname: empty: all hosts that are in no other place of these routes.
    """

    gateway: Key
    routes: str
    port: int
    hostname: str


@dataclass(frozen=True, slots=True)
class EdgeAttachment:
    """A route at one of its parents at the edge.

    Attributes:
        parent: as the route names it.
        gateway: key of the Gateway.
        listeners: that the route is attached to.
        hosts: for which requests count; none at listeners that are not served.
        accepted: condition ``Accepted``.
    """

    parent: ParentReference
    gateway: Key
    listeners: tuple[ListenerId, ...]
    hosts: tuple[EdgeHost, ...]
    accepted: Verdict


@dataclass(frozen=True, slots=True)
class EdgeLookups:
    """What the attachments of a route depend on.

    Attributes:
        gateway: returns the gateway of a Gateway or ListenerSet, by kind and key; ``None``: it is not ours.
        labels_of: returns the labels of a namespace.
    """

    gateway: Callable[[str, Key], EdgeGateway | None] = lambda *_: None
    labels_of: Callable[[str], dict[str, str]] = lambda _: {}


@dataclass(frozen=True, slots=True)
class RouteAtEdge:
    """A route that is to be attached.

    Attributes:
        kind: of the route.
        namespace: of the route.
        hostnames: none: all that its listeners have.
        accepted: of the route itself.
    """

    kind: str
    namespace: str
    hostnames: tuple[str, ...]
    accepted: Verdict


def attachments(
    route: RouteAtEdge, parents: Iterable[ParentReference], lookups: EdgeLookups
) -> Iterator[EdgeAttachment]:
    """Yield the attachments of a route to gateways."""
    for parent in parents:
        if parent.group != GROUP or parent.kind not in PARENTS:
            continue
        key = (parent.namespace or route.namespace, parent.name)
        gateway = lookups.gateway(parent.kind, key)
        if gateway is not None:
            yield _attachment(route, parent, gateway, gateway.of(parent.kind, key), lookups)


def _attachment(
    route: RouteAtEdge,
    parent: ParentReference,
    gateway: EdgeGateway,
    listeners: Sequence[EdgeListener],
    lookups: EdgeLookups,
) -> EdgeAttachment:
    named = [one for one in listeners if parent.section_name in {"", one.name} and parent.port in {0, one.port}]
    allowing = [one for one in named if _allows(one, route, lookups)]
    fitting = [(one, found) for one in allowing if (found := tuple(_common(one, route)))]
    if not route.accepted.is_true:
        verdict = route.accepted
    elif not named:
        wanted = f"section {parent.section_name}" if parent.section_name else f"port {parent.port}"
        verdict = Verdict(False, "NoMatchingParent", f"{parent.kind} {parent.name} has no listener with {wanted}")
    elif not allowing:
        verdict = Verdict(False, "NotAllowedByListeners", _not_allowed(named, route))
    elif not fitting:
        have = ", ".join(sorted(one.hostname for one in allowing))
        message = f"none of its hostnames is one of its listeners' ({have})"
        verdict = Verdict(False, "NoMatchingListenerHostname", message)
    else:
        verdict = route.accepted
    if not verdict.is_true:
        return EdgeAttachment(parent, gateway.key, (), (), verdict)
    hosts = (host for one, found in fitting if one.is_served for host in _hosts(gateway, one, found))
    return EdgeAttachment(
        parent, gateway.key, tuple(one.id for one, _ in fitting), tuple(dict.fromkeys(hosts)), verdict
    )


def _allows(listener: EdgeListener, route: RouteAtEdge, lookups: EdgeLookups) -> bool:
    return route.kind in listener.kinds and reading.admits(
        listener.allowed, listener.owner[0], route.namespace, lookups.labels_of
    )


def _common(listener: EdgeListener, route: RouteAtEdge) -> Iterator[str]:
    """Yield the hosts that a listener and a route have in common; empty: all."""
    for one in route.hostnames or ("",):
        found = intersection(listener.hostname, one)
        if found is not None:
            yield found


def _hosts(gateway: EdgeGateway, listener: EdgeListener, common: Iterable[str]) -> Iterator[EdgeHost]:
    """Yield where requests count: a host that a more specific listener of the port is for is not among them."""
    rivals = tuple(
        one.hostname
        for one in gateway.served
        if one.port == listener.port and one.spoken is not None and _shares_port(one, listener)
    )
    for hostname in common:
        if owner_of(hostname, rivals) == listener.hostname:
            yield EdgeHost(gateway.key, listener.routes_name, listener.port, hostname)


def _shares_port(one: EdgeListener, other: EdgeListener) -> bool:
    return one.spoken is not None and other.spoken is not None and one.spoken.has_tls == other.spoken.has_tls


def _not_allowed(named: Iterable[EdgeListener], route: RouteAtEdge) -> str:
    if any(route.kind in one.kinds for one in named):
        return f"namespace {route.namespace} is in no allowedRoutes of its listeners"
    return f"{route.kind}s may attach to none of its listeners"
