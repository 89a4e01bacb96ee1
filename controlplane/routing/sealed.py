"""Servers with TLS mode AUTO_PASSTHROUGH: which services clients may name in TLS, without any route. Pure.

Facts: Istio's ``pilot/pkg/networking/core/gateway.go`` (``builtAutoPassthroughFilterChains``). A client names port,
subset and host of a service in its server name; TLS is between it and the endpoint.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from controlplane.gateways.listener import EdgeListener
from controlplane.routing.connection_routes import REFUSAL
from controlplane.routing.destinations import Rules
from controlplane.routing.ir import ConnectionRule, Origin, Share, Target
from controlplane.routing.services import Discovery, Service
from meshapi import hosts

_NO_OBJECT: Final = Origin("", ("", ""))


def admitted(listener: EdgeListener, every: Iterable[Service], viewer: str) -> Iterator[Service]:
    """Yield the services that clients of a server may name.

    They are inside of the mesh, have a host that the server has, in a namespace that this host is for, and are seen
    from the gateway. A service whose endpoint is what the client has called, or a name that the client sends, has none.

    Args:
        listener: a host of the server.
        every: all services.
        viewer: namespace of the gateway.
    """
    for one in every:
        is_fitting = not listener.hostname or hosts.matches(listener.hostname, one.host)
        is_inside = not one.is_external and one.discovery not in {Discovery.CALLED, Discovery.NAMED}
        if is_fitting and is_inside and listener.scope in {"*", one.namespace} and one.is_seen_from(viewer):
            yield one


def connections(
    listener: EdgeListener,
    services: Iterable[Service],
    rules: Callable[[Service], Rules],
    name: Callable[[str, int, str], str],
) -> Mapping[str, ConnectionRule]:
    """Return the rules for connections to a server by server name; what names no service is refused.

    Args:
        listener: a host of the server.
        services: that clients may name.
        rules: returns what DestinationRules say of a service.
        name: returns the server name of host, port and subset.
    """
    found: dict[str, ConnectionRule] = {}
    for service in services:
        subsets = ("", *(one.name for one in rules(service).subsets))
        for port in service.ports:
            for subset in subsets:
                target = Target(service.host, port.number, subset, is_sealed=True)
                # Envoy reads server names in lower case.
                found.setdefault(
                    name(service.host, port.number, subset).lower(), ConnectionRule(_NO_OBJECT, (Share(target),))
                )
    found.setdefault(listener.hostname, REFUSAL)
    return found
