"""What becomes of Istio's Gateways, and of VirtualServices that name them, as a condition. Pure.

A Gateway of which some server cannot be served says which one and why; the others are in force. What a VirtualService
says to the mesh is another condition.
"""

from collections.abc import Iterable
from typing import Final

from controlplane.envoy.layer7 import Layer7
from controlplane.envoy.placing import Placed
from controlplane.gateways import credentials, servers
from controlplane.gateways.listener import EdgeGateway, EdgeListener
from controlplane.graph.derived import Fetch
from controlplane.status import conditions, rejections
from controlplane.status.conditions import GATEWAY_ACCEPTED, Condition
from meshapi.errors import listed
from meshapi.resources import base
from meshapi.resources.istio_gateway import Gateway
from meshapi.resources.virtual_service import VirtualService
from meshkit.kube import Key

NOT_SERVED: Final = "NotServed"
NOT_BOUND: Final = "GatewayNotBound"


class GatewayConditions:
    """The conditions of objects for gateways of Istio's API."""

    def __init__(self, layer7: Layer7) -> None:
        self._layer7 = layer7
        self._istio = layer7.model.gateways.istio

    def of_gateway(self, item: Gateway, fetch: Fetch) -> Condition:
        """Return the condition of a Gateway."""
        if not item.spec.selector:
            fix = "write the labels of the gateway's pods, as istio: ingressgateway"
            return _condition(False, NOT_SERVED, f"spec.selector is empty, so no pod serves it; {fix}")
        places = self._istio.at(item.key, fetch)
        if not places:
            wanted = ", ".join(f"{name}={value}" for name, value in sorted(item.spec.selector.items()))
            return _condition(
                False, NOT_SERVED, f"no pod has the labels of spec.selector ({wanted}); install a gateway"
            )
        placed = self._layer7.envoy.of_source(servers.KIND, item.key, fetch)
        if rejected := self._rejection(placed, fetch):
            return rejected
        listeners = [one for place in places for one in place.of(servers.KIND, item.key)]
        of_pods = dict.fromkeys(problem for place in places for problem in place.problems)
        found = [*_faults(listeners), *_ignored(item), *of_pods]
        shown = listed(sorted({_shown(place) for place in places}))
        if not any(one.is_served for one in listeners):
            return _condition(False, NOT_SERVED, listed(found))
        if found:
            return _condition(False, conditions.UNSUPPORTED, f"{listed(found)}; the rest is in force at {shown}")
        return _condition(True, conditions.ACCEPTED, f"in force at {shown}")

    def of_virtual_service(self, item: VirtualService, fetch: Fetch) -> Condition | None:
        """Return the condition of a VirtualService for the gateways that it names; ``None``: it names none."""
        bound = fetch.find(self._layer7.routing.at_gateways.bound, item.key)
        if bound is None:
            return None
        placed = [
            one
            for one in self._layer7.envoy.of_source("VirtualService", item.key, fetch)
            if fetch.find(self._istio.known, one.view) is not None
        ]
        if rejected := self._rejection(placed, fetch):
            return rejected
        views = {place.gateway for place, _ in bound.requests} | {chain.gateway for chain, _ in bound.connections}
        shown = listed(sorted({self._shown(view, fetch) for view in views})) if views else ""
        if not views:
            return _condition(
                False, NOT_BOUND, listed(bound.problems) if bound.problems else "none of its rules counts"
            )
        found = [*bound.problems, *(f"{path} is not known and ignored" for path in base.unknown_fields(item))]
        if found:
            return _condition(False, conditions.UNSUPPORTED, f"{listed(found)}; the rest is in force at {shown}")
        return _condition(True, conditions.ACCEPTED, f"in force at {shown}")

    def _shown(self, view: Key, fetch: Fetch) -> str:
        found = fetch.find(self._istio.known, view)
        return "/".join(view) if found is None else _shown(found)

    def _rejection(self, placed: Iterable[Placed], fetch: Fetch) -> Condition | None:
        found = rejections.first(self._layer7.model.inputs, placed, fetch)
        if found is None:
            return None
        rejected = conditions.of_rejected(found)
        return _condition(False, rejected.reason, rejected.message)


def _faults(listeners: Iterable[EdgeListener]) -> list[str]:
    """Return what is wrong with servers, each said once."""
    return list(dict.fromkeys(f"spec.{one.name}: {one.fault.message}" for one in listeners if one.fault is not None))


def _ignored(item: Gateway) -> list[str]:
    """Return what of a Gateway has no effect."""
    of_tls = [
        f"spec.servers[{index}].{problem}"
        for index, server in enumerate(item.spec.servers)
        for problem in (() if server.tls is None else credentials.problems(server.tls))
    ]
    targets = [
        f"spec.servers[{index}].port.targetPort has no effect; the Service says where its port leads"
        for index, server in enumerate(item.spec.servers)
        if server.port.target_port
    ]
    return [*of_tls, *targets, *(f"{path} is not known and ignored" for path in base.unknown_fields(item))]


def _shown(place: EdgeGateway) -> str:
    return f"gateway {place.key[0]}/{place.workload}"


def _condition(accepted: bool, reason: str, message: str) -> Condition:
    return Condition(accepted, reason, message, GATEWAY_ACCEPTED)
