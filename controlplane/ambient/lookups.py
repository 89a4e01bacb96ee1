"""How the ambient computations look objects up."""

from typing import Any

from controlplane.ambient import authorization, peer_authentication, unbound
from controlplane.graph.lookups import Claims, Index, SelectorIndex
from controlplane.inputs.sources import Inputs
from meshapi.resources.core import EndpointSlice, Pod, Service
from meshapi.resources.networking import ServiceEntry, WorkloadEntry
from meshapi.resources.security import AuthorizationPolicy, PeerAuthentication
from meshkit.kube import Key

EVERYTHING: Key = ("", "")
"""The only group of an index that has one."""


class Lookups:
    """The objects that the ambient computations read, and the indexes over them.

    Attributes:
        hosts: by host, the ServiceEntry that other namespaces see: the oldest.
        hosts_within: by namespace and host, the ServiceEntry that its own namespace sees.
        peers_of_namespaces: PeerAuthentications without a selector, by namespace.
        all_peers: all PeerAuthentications, in one group.
        pods_on: pods by node.
    """

    def __init__(self, inputs: Inputs) -> None:
        self.mesh = inputs.mesh
        self.namespaces = inputs.namespaces
        self.services = inputs.of(Service)
        self.slices = inputs.of(EndpointSlice)
        self.workload_entries = inputs.of(WorkloadEntry)
        self.pods = inputs.of(Pod)
        entries, policies, peers = (
            inputs.of(ServiceEntry),
            inputs.of(AuthorizationPolicy),
            inputs.of(PeerAuthentication),
        )
        self.entries, self.policies, self.peers = entries, policies, peers
        self.services_by_selector = SelectorIndex(self.services, _of_service)
        self.entries_by_selector = SelectorIndex(entries, _of_entry)
        self.policies_by_selector = SelectorIndex(
            policies, lambda policy: (policy.metadata.namespace, authorization.selector(policy))
        )
        self.policies_of_services: Index[Key, Key, AuthorizationPolicy] = Index(policies, unbound.services)
        self.peers_by_selector = SelectorIndex(
            peers, lambda peer: (peer.metadata.namespace, peer_authentication.selector(peer))
        )
        self.hosts: Claims[str, Key, ServiceEntry] = Claims(entries, lambda entry: entry.spec.hosts, _age)
        self.hosts_within: Claims[Key, Key, ServiceEntry] = Claims(
            entries, lambda entry: [(entry.metadata.namespace, host) for host in entry.spec.hosts], _age
        )
        self.peers_of_namespaces: Index[str, Key, PeerAuthentication] = Index(
            peers, lambda peer: () if peer_authentication.selector(peer) else (peer.metadata.namespace,)
        )
        self.all_peers: Index[Key, Key, PeerAuthentication] = Index(peers, lambda _: (EVERYTHING,))
        self.pods_on: Index[str, Key, Pod] = Index(self.pods, lambda pod: (pod.spec.node_name,))


def _of_service(service: Service) -> tuple[str, dict[str, str]] | None:
    return None if service.spec.type == "ExternalName" else (service.metadata.namespace, service.spec.selector)


def _of_entry(entry: ServiceEntry) -> tuple[str, dict[str, str]] | None:
    selector = entry.spec.workload_selector
    return None if selector is None else (entry.metadata.namespace, selector.labels)


def _age(entry: ServiceEntry) -> tuple[Any, Key]:
    return (entry.metadata.creation_timestamp, entry.key)
