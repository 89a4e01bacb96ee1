"""The gateways of one mesh, as a collection."""

from controlplane.gateways import classes, reading
from controlplane.gateways.grants import Grants
from controlplane.gateways.istio import IstioGateways
from controlplane.gateways.listener import EdgeGateway
from controlplane.gateways.references import References
from controlplane.graph.collection import Collection
from controlplane.graph.derived import Derived, Fetch
from controlplane.graph.label_index import LabelIndex
from controlplane.graph.lookups import Index
from controlplane.graph.scheduler import Graph
from controlplane.graph.union import Union
from controlplane.inputs.sources import Inputs
from controlplane.stages import WAYPOINTS
from meshapi import names
from meshapi.resources.core import Pod, Service
from meshapi.resources.gateway import GROUP, Gateway, GatewayClass, ListenerSet
from meshkit.kube import Key


class Gateways:
    """The gateways at the edge.

    Attributes:
        known: by the key of their Gateway; those of Istio's API by the key of their place.
        of_gateway_api: of these, the ones of the Gateway API.
        istio: Gateways of Istio's API.
        grants: who may refer to what.
    """

    known: Collection[Key, EdgeGateway]
    of_gateway_api: Collection[Key, EdgeGateway]

    def __init__(self, graph: Graph, inputs: Inputs) -> None:
        self.grants = Grants(inputs)
        self._inputs = inputs
        self._objects = inputs.of(Gateway)
        self._classes = inputs.of(GatewayClass)
        self._sets: Index[Key, Key, ListenerSet] = Index(
            inputs.of(ListenerSet), lambda one: () if (parent := parent_of(one)) is None else (parent,)
        )
        self._services = inputs.of(Service)
        self._pods: LabelIndex[Key, Pod] = LabelIndex(
            inputs.of(Pod), lambda pod: pod.metadata.namespace, lambda pod: pod.metadata.labels
        )
        self.of_gateway_api = Derived(graph, "gateways", self._objects, WAYPOINTS, self._read)
        self.istio = IstioGateways(graph, inputs, self._references)
        self.known = Union(graph, "all gateways", self.of_gateway_api, self.istio.known)

    def controller(self, key: Key, fetch: Fetch) -> str:
        """Return the controller of a Gateway's class; empty: there is no such Gateway, or class."""
        found = fetch.find(self._objects, key)
        return "" if found is None else self._controller(found, fetch)

    def of_parent(self, kind: str, key: Key, fetch: Fetch) -> EdgeGateway | None:
        """Return the gateway that a Gateway is, or that a ListenerSet adds listeners to."""
        if kind == "Gateway":
            return fetch.find(self.of_gateway_api, key)
        found = fetch.find(self._inputs.of(ListenerSet), key)
        parent = None if found is None else parent_of(found)
        return None if parent is None else fetch.find(self.of_gateway_api, parent)

    def labels_of(self, namespace: str, fetch: Fetch) -> dict[str, str]:
        """Return the labels of a namespace."""
        found = fetch.find(self._inputs.namespaces, ("", namespace))
        return {} if found is None else found.metadata.labels

    def _controller(self, gateway: Gateway, fetch: Fetch) -> str:
        found = fetch.find(self._classes, ("", gateway.spec.gateway_class_name))
        if found is not None:
            return found.spec.controller_name
        own = classes.by_name(gateway)
        return "" if own is None else own.controller

    def _read(self, gateway: Gateway, fetch: Fetch) -> EdgeGateway | None:
        if self._controller(gateway, fetch) != names.GATEWAY_CONTROLLER:
            return None
        sets = fetch.members(self._sets, gateway.key)
        resolve = self._references(fetch)
        return reading.read(
            gateway,
            sets,
            resolve,
            lambda namespace: self.labels_of(namespace, fetch),
            lambda service: self._proxy_config(service, fetch),
        )

    def _proxy_config(self, service: Key, fetch: Fetch) -> str:
        """Return the settings of the pods that a Service selects: where these differ, of the first one by name."""
        found = fetch.find(self._services, service)
        selector = {} if found is None else found.spec.selector
        pods = fetch.selected(self._pods, service[0], frozenset(selector.items()))
        running = sorted((pod for _, pod in pods if not pod.is_terminal), key=lambda pod: pod.metadata.name)
        return running[0].metadata.annotations.get(names.PROXY_CONFIG_ANNOTATION, "") if running else ""

    def _references(self, fetch: Fetch) -> References:
        return References(
            lambda key: fetch.find(self._inputs.secrets, key),
            lambda key: fetch.find(self._inputs.certificates, key),
            lambda who, kind, key: self.grants.allow(who, kind, key, fetch),
        )


def parent_of(one: ListenerSet) -> Key | None:
    """Return the Gateway that a ListenerSet names; ``None``: it names something else."""
    parent = one.spec.parent_ref
    if (parent.group, parent.kind) != (GROUP, "Gateway"):
        return None
    return (parent.namespace or one.metadata.namespace, parent.name)
