"""Workloads that are called by their own addresses, as waypoints see them. Pure, but for the collections at the end.

What ztunnels take for a workload that uses a waypoint is one here, too: pods, WorkloadEntries, and the endpoints that
ServiceEntries list. The pods of the host's network are none: their addresses are the node's.
"""

import ipaddress
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, TypeVar

from controlplane.ambient.workloads import tunnels, workload_name
from controlplane.graph.collection import Collection
from controlplane.graph.derived import Derived, Fetch
from controlplane.graph.lookups import Group, Index
from controlplane.graph.scheduler import Graph
from controlplane.inputs.mesh import MeshContext
from controlplane.inputs.sources import Inputs
from controlplane.routing.services import described
from controlplane.stages import ROUTES
from controlplane.waypoints.collections import Waypoints
from meshapi import names
from meshapi.identity import SpiffeId
from meshapi.resources.core import Pod
from meshapi.resources.networking import ServiceEntry, WorkloadEntry, WorkloadEntrySpec
from meshkit.kube import Key

ItemT = TypeVar("ItemT", Pod, WorkloadEntry, ServiceEntry)
Place = tuple[Key, str]
"""A waypoint's Gateway, and an address."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One address of a workload.

    Attributes:
        address: as proxies write it.
        has_tunnel: whether it is reached over HBONE.
        workload: what telemetry says of it: name, namespace, canonical name, canonical revision, cluster.
        identity: SPIFFE ID, where it has one.
    """

    address: str
    has_tunnel: bool = False
    workload: tuple[str, ...] = ()
    identity: str = ""


@dataclass(frozen=True, slots=True)
class Attached:
    """The workloads of one object, and the waypoint that they use.

    Attributes:
        view: key of the waypoint's Gateway.
        created: when the object was.
        key: of the object.
        workloads: one for each address.
    """

    view: Key
    created: str
    key: Key
    workloads: tuple[Workload, ...]

    @property
    def places(self) -> set[Place]:
        """Where they are called."""
        return {(self.view, one.address) for one in self.workloads}


def of_pod(pod: Pod, mesh: MeshContext) -> tuple[Workload, ...]:
    """Return a pod's addresses; none before it has one, after its end, and in the host's network."""
    if pod.is_terminal or pod.spec.host_network:
        return ()
    namespace, labels = pod.metadata.namespace, pod.metadata.labels
    about = described(workload_name(pod), namespace, labels, mesh)
    identity = str(SpiffeId(mesh.trust_domain, namespace, pod.spec.service_account_name))
    return tuple(Workload(one, tunnels(pod), about, identity) for one in _callable(pod.addresses))


def of_workload_entry(entry: WorkloadEntry, mesh: MeshContext) -> tuple[Workload, ...]:
    """Return a WorkloadEntry's address; none for one that is a name, which has no address to call."""
    return _of_spec(entry.spec, entry.metadata.namespace, entry.metadata.name, mesh)


def of_service_entry(entry: ServiceEntry, mesh: MeshContext) -> tuple[Workload, ...]:
    """Return the addresses that a ServiceEntry lists as endpoints."""
    namespace, name = entry.key
    return tuple(one for spec in entry.spec.endpoints for one in _of_spec(spec, namespace, name, mesh))


def _of_spec(spec: WorkloadEntrySpec, namespace: str, name: str, mesh: MeshContext) -> tuple[Workload, ...]:
    has_tunnel = spec.labels.get(names.TUNNEL_LABEL) == names.TUNNEL_LABEL_HTTP
    about = described(name, namespace, spec.labels, mesh)
    account = spec.service_account
    identity = str(SpiffeId(mesh.trust_domain, namespace, account)) if account else ""
    return tuple(Workload(one, has_tunnel, about, identity) for one in _callable([spec.ip]))


def _callable(addresses: Iterable[str]) -> Iterable[str]:
    """Yield the addresses that a waypoint may connect to, in the form in which proxies write them.

    What is loopback or link-local leads to the waypoint's own pod, such as Envoy's admin page, or to its node.
    """
    for text in filter(None, addresses):
        address = ipaddress.ip_address(text)
        is_mapped = isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None
        if not (
            address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast or is_mapped
        ):
            yield socket.inet_ntop(_FAMILIES[address.version], address.packed)


_FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}


class Workloads:
    """The workloads that use waypoints.

    Attributes:
        indexes: the workloads by waypoint and address; where several have an address, an earlier index goes first.
    """

    def __init__(self, graph: Graph, inputs: Inputs, waypoints: Waypoints) -> None:
        self._mesh = inputs.mesh
        self._waypoints = waypoints
        made: tuple[tuple[str, Collection[Key, Attached]], ...] = (
            ("pods", Derived(graph, "workloads of pods", inputs.of(Pod), ROUTES, self._pod)),
            (
                "workload entries",
                Derived(graph, "workloads of entries", inputs.of(WorkloadEntry), ROUTES, self._workload_entry),
            ),
            (
                "service entries",
                Derived(graph, "workloads of service entries", inputs.of(ServiceEntry), ROUTES, self._service_entry),
            ),
        )
        self.indexes: dict[str, Index[Place, Key, Attached]] = {
            name: Index(collection, lambda one: one.places) for name, collection in made
        }

    def at(self, name: str, group: Group[Place, Key, Attached], fetch: Fetch) -> Workload | None:
        """Return the workload at an address: the newest, since addresses are used again.

        Args:
            name: of the index that the group is of.
            group: the objects that have the address.
            fetch: how others are read.

        Returns:
            ``None`` where an object of an earlier index has the address.
        """
        for other, index in self.indexes.items():
            if other == name:
                break
            if fetch.members(index, group.key):
                return None
        newest = max(group.members.values(), key=lambda one: (one.created, one.key))
        return next(one for one in newest.workloads if one.address == group.key[1])

    def _pod(self, pod: Pod, fetch: Fetch) -> Attached | None:
        return self._attached(pod, of_pod, fetch)

    def _workload_entry(self, entry: WorkloadEntry, fetch: Fetch) -> Attached | None:
        return self._attached(entry, of_workload_entry, fetch)

    def _service_entry(self, entry: ServiceEntry, fetch: Fetch) -> Attached | None:
        return self._attached(entry, of_service_entry, fetch)

    def _attached(
        self, item: ItemT, of: Callable[[ItemT, MeshContext], tuple[Workload, ...]], fetch: Fetch
    ) -> Attached | None:
        waypoint = self._waypoints.serving_workload(item.metadata, fetch)
        found = () if waypoint is None else of(item, fetch.setting(self._mesh))
        if waypoint is None or not found:
            return None
        return Attached(waypoint.key, item.metadata.creation_timestamp, item.key, found)
