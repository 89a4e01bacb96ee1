"""The Ingresses that Culvert serves, as a collection, by the key of the Gateway that each becomes."""

from controlplane.gateways import ingresses
from controlplane.gateways.ingresses import Claimed
from controlplane.graph.collection import Collection
from controlplane.graph.derived import Derived, Fetch
from controlplane.graph.lookups import Group, Index
from controlplane.graph.scheduler import Graph
from controlplane.inputs.sources import MESH, Inputs
from controlplane.stages import WAYPOINTS
from meshapi.mesh_config.model import MeshConfig
from meshapi.resources.ingress import Ingress, IngressClass
from meshapi.resources.istio_gateway import Gateway
from meshkit.kube import Key


class Ingresses:
    """The Ingresses of one mesh.

    Attributes:
        claimed: the Ingresses that Culvert serves.
        gateways: the Gateways that they become.
    """

    def __init__(self, graph: Graph, inputs: Inputs) -> None:
        self._config = inputs.config
        self._classes = inputs.of(IngressClass)
        by_gateway: Index[Key, Key, Ingress] = Index(inputs.of(Ingress), lambda one: (ingresses.key_of(one),))
        self.claimed: Collection[Key, Claimed] = Derived(graph, "ingresses", by_gateway, WAYPOINTS, self._claim)
        self.gateways: Collection[Key, Gateway] = Derived(
            graph, "gateways of ingresses", self.claimed, WAYPOINTS, lambda one, _: one.gateway
        )

    def config(self, fetch: Fetch) -> MeshConfig:
        """Return the mesh configuration in force."""
        return fetch.find(self._config, MESH) or MeshConfig()

    def _claim(self, group: Group[Key, Key, Ingress], fetch: Fetch) -> Claimed | None:
        [item] = group.members.values()
        config = self.config(fetch)
        name = item.spec.ingress_class_name
        of_class = fetch.find(self._classes, ("", name)) if name else None
        if not ingresses.is_claimed(item, of_class, config):
            return None
        return Claimed(item, ingresses.gateway_of(item, config))
