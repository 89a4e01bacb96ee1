"""The ambient collections: from the sources to the resources of layer 4 proxies.

``controlplane.stages`` has the order of the collections, and why.
"""

from typing import Final

from controlplane.ambient import unbound
from controlplane.ambient.derivations import Derivations, Resources
from controlplane.ambient.lookups import Lookups
from controlplane.ambient.outputs import Changes, Maker, Outputs
from controlplane.gateways.collections import Gateways
from controlplane.graph.collection import Collection
from controlplane.graph.derived import Derived
from controlplane.graph.lookups import SelectorIndex
from controlplane.graph.scheduler import Graph
from controlplane.inputs.mesh import MeshContext
from controlplane.inputs.sources import Inputs
from controlplane.stages import ADDRESSES, HOSTS, MODES, POLICIES, UNBOUND
from controlplane.waypoints.collections import Waypoints
from meshapi import names
from meshapi.resources.core import Node, Pod, Service
from meshkit.kube import Key
from meshkit.xds.source import Resource

TYPES: Final = (names.MESH_CONFIG_TYPE, names.AUTHORIZATION_TYPE, names.ADDRESS_TYPE)
"""Of layer 4 proxies."""


class Model:
    """The collections of one mesh, and their resources. Not safe for threads.

    Attributes:
        graph: the scheduler.
        inputs: the sources; set them, then ``flush``.
        policies: what layer 4 makes of each AuthorizationPolicy.
        unbound: what it enforces for services that policies name and that use no waypoint, by the service's key.
        waypoints: the waypoints, and what is attached to them.
        gateways: the gateways at the edge.
    """

    def __init__(self, inputs: Inputs, graph: Graph) -> None:
        self.graph = graph
        self.inputs = inputs
        self._lookups = look = Lookups(inputs)
        self._outputs = Outputs(TYPES)
        self.waypoints = Waypoints(graph, inputs)
        self.gateways = Gateways(graph, inputs)
        make = Derivations(look, inputs.of(Node), self.waypoints)
        make.modes = Derived(graph, "modes", look.peers_of_namespaces, MODES, make.mode)
        make.hosts = Derived(graph, "hosts", look.entries, HOSTS, make.hosts_of)
        self.policies = Derived(graph, "policies", look.policies, POLICIES, make.policy)
        self._outputs.add(self.policies, names.AUTHORIZATION_TYPE, lambda policy: policy.resources)
        self.unbound = Derived(
            graph,
            "policies of services without waypoint",
            look.policies_of_services,
            UNBOUND,
            unbound.Making(inputs, self.waypoints).of_service,
        )
        self._outputs.add(self.unbound, names.AUTHORIZATION_TYPE, lambda made: made.policies.values())
        make.unbound = SelectorIndex(self.unbound, lambda made: (made.namespace, made.selector))
        self.resources: dict[str, Derived[Key, Resources]] = {}
        """Further collections of resources, by name."""
        for type_url, derived in (
            (names.MESH_CONFIG_TYPE, Derived(graph, "settings", inputs.config, POLICIES, make.settings)),
            (names.AUTHORIZATION_TYPE, Derived(graph, "peers", look.peers, POLICIES, make.peer)),
            (names.AUTHORIZATION_TYPE, Derived(graph, "static", look.all_peers, POLICIES, make.static)),
            (names.ADDRESS_TYPE, Derived(graph, "services", look.services, ADDRESSES, make.service)),
            (names.ADDRESS_TYPE, Derived(graph, "slices", look.slices, ADDRESSES, make.slice)),
            (names.ADDRESS_TYPE, Derived(graph, "entries", look.entries, ADDRESSES, make.entry)),
            (names.ADDRESS_TYPE, Derived(graph, "pods", look.pods, ADDRESSES, make.pod)),
            (
                names.ADDRESS_TYPE,
                Derived(graph, "workload entries", look.workload_entries, ADDRESSES, make.workload_entry),
            ),
        ):
            self._outputs.add(derived, type_url, lambda made: made)
            self.resources[derived.name] = derived

    @property
    def mesh(self) -> MeshContext:
        """Facts about the whole mesh."""
        return self.inputs.mesh.value

    @property
    def pods(self) -> Collection[Key, Pod]:
        """The pods of discovered namespaces."""
        return self._lookups.pods

    @property
    def services(self) -> Collection[Key, Service]:
        """The Kubernetes services of discovered namespaces."""
        return self._lookups.services

    def problems(self) -> dict[str, tuple[str, ...]]:
        """Return what layer 4 leaves out of policies, by the name of each policy that something is left out of."""
        return {"/".join(key): policy.problems for key, policy in self.policies.items() if policy.problems}

    def pods_on(self, node: str) -> list[Pod]:
        """Return the pods that are scheduled on a node."""
        return list(self._lookups.pods_on.members(node).values())

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to compute."""
        return self.graph.is_settled

    def flush(self, limit: int | None = None) -> Changes:
        """Compute at most ``limit`` queued values; return the resources that have changed."""
        self.graph.run(limit)
        return self._outputs.take(is_settled=self.graph.is_settled)

    def all(self, type_url: str) -> dict[str, Resource]:
        """Return the resources of a type as of the last flush."""
        return self._outputs.all(type_url)

    def maker(self, type_url: str, name: str) -> Maker | None:
        """Return which value a resource belongs to."""
        return self._outputs.maker(type_url, name)


def create(mesh: MeshContext) -> Model:
    """Return a model with a graph and sources of its own."""
    graph = Graph()
    return Model(Inputs(graph, mesh), graph)
