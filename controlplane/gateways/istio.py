"""Gateways of Istio's API as collections: which pods serve which of them, and what these pods serve.

A Gateway is served by all pods with the labels of its selector, of any namespace; a pod serves all Gateways that select
it. So the pods come first here: each place (``gateways.place``) is one gateway, made of all that select it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from controlplane.gateways import place, servers
from controlplane.gateways.ingress_collections import Ingresses
from controlplane.gateways.listener import EdgeGateway
from controlplane.gateways.place import Place
from controlplane.gateways.references import References
from controlplane.graph.collection import Collection
from controlplane.graph.derived import Derived, Fetch
from controlplane.graph.label_index import LabelIndex
from controlplane.graph.lookups import Group, Index, SelectorIndex
from controlplane.graph.scheduler import Graph
from controlplane.graph.union import Union
from controlplane.inputs.sources import Inputs
from controlplane.stages import WAYPOINTS
from meshapi.resources.core import Pod, Service
from meshapi.resources.istio_gateway import Gateway
from meshkit.kube import Key

_EVERYWHERE: Final = ""
"""The one scope of pods: selectors match those of all namespaces."""


@dataclass(frozen=True, slots=True)
class Selection:
    """A Gateway, and where it is served.

    Attributes:
        gateway: the Gateway.
        places: the pods that it selects, in the order of their keys.
    """

    gateway: Gateway
    places: tuple[Place, ...]


class IstioGateways:
    """The Gateways of Istio's API, and the pods that serve them.

    Args:
        graph: the scheduler.
        inputs: where the objects are.
        resolve: returns how the references of one computation are resolved.

    Attributes:
        selections: where each Gateway is served, by its key.
        ingresses: Ingresses of Kubernetes, each of which is a Gateway, too.
        known: the gateways that pods are, by the key of their place.
    """

    def __init__(self, graph: Graph, inputs: Inputs, resolve: Callable[[Fetch], References]) -> None:
        self.ingresses = Ingresses(graph, inputs)
        every = Union(graph, "Istio's gateways and ingresses", inputs.of(Gateway), self.ingresses.gateways)
        self._resolve = resolve
        self._pods: LabelIndex[Key, Pod] = LabelIndex(
            inputs.of(Pod), lambda _: _EVERYWHERE, lambda pod: pod.metadata.labels
        )
        self._services: SelectorIndex[Key, Service] = SelectorIndex(
            inputs.of(Service), lambda one: (one.metadata.namespace, one.spec.selector)
        )
        self.selections: Collection[Key, Selection] = Derived(
            graph, "pods of Istio's gateways", every, WAYPOINTS, self._select
        )
        self._by_place: Index[Key, Key, Selection] = Index(
            self.selections, lambda one: [found.key for found in one.places]
        )
        self.known: Collection[Key, EdgeGateway] = Derived(
            graph, "Istio's gateways", self._by_place, WAYPOINTS, self._read
        )

    def at(self, gateway: Key, fetch: Fetch) -> tuple[EdgeGateway, ...] | None:
        """Return the gateways that serve a Gateway; ``None``: there is no such Gateway."""
        found = fetch.find(self.selections, gateway)
        if found is None:
            return None
        served = (fetch.find(self.known, one.key) for one in found.places)
        return tuple(one for one in served if one is not None)

    def _select(self, gateway: Gateway, fetch: Fetch) -> Selection:
        pods = fetch.selected(self._pods, _EVERYWHERE, frozenset(gateway.spec.selector.items()))
        places = {place.of_pod(pod) for _, pod in pods if not pod.is_terminal}
        return Selection(gateway, tuple(sorted(places, key=lambda one: one.key)))

    def _read(self, group: Group[Key, Key, Selection], fetch: Fetch) -> EdgeGateway:
        selections = group.members.values()
        here = next(found for one in selections for found in one.places if found.key == group.key)
        services = fetch.matching(self._services, here.namespace, here.labels)
        gateways = [one.gateway for one in selections]
        return servers.merged(here, gateways, place.targets(services, here), self._resolve(fetch))
