"""From objects to resources, with everything that they depend on. Pure: all reads go through ``fetch``."""

from dataclasses import dataclass
from typing import TypeAlias

from controlplane.ambient import (
    authorization,
    gateways,
    peer_authentication,
    proxy_settings,
    resources,
    services,
    workloads,
)
from controlplane.ambient import service_entries as entries
from controlplane.ambient.lookups import Lookups
from controlplane.ambient.unbound import Unbound
from controlplane.graph.collection import Collection
from controlplane.graph.derived import Fetch
from controlplane.graph.lookups import Group, Labels, SelectorIndex
from controlplane.inputs import visibility
from controlplane.inputs.mesh import MeshContext
from controlplane.waypoints.collections import Waypoints
from meshapi import names
from meshapi.analysis.egress import is_registry_only
from meshapi.mesh_config.model import MeshConfig
from meshapi.resources.core import EndpointSlice, Node, Pod, Service
from meshapi.resources.networking import ServiceEntry, WorkloadEntry
from meshapi.resources.security import AuthorizationPolicy, PeerAuthentication
from meshkit.kube import Key
from meshkit.xds.source import Resource

Resources: TypeAlias = tuple[Resource, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """What layer 4 makes of an AuthorizationPolicy.

    Attributes:
        resources: the policy as proxies get it; none when they do not get it.
        problems: what was left out of it.
    """

    resources: Resources
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Hosts:
    """Which of a ServiceEntry's hosts are its own.

    Attributes:
        served: in its namespace.
        canonical: also for other namespaces.
    """

    served: tuple[str, ...]
    canonical: frozenset[str]


class Derivations:
    """The transforms of the ambient collections.

    Attributes:
        modes: by namespace, the PeerAuthentication without a selector that counts there; set by who wires.
        hosts: by ServiceEntry, which of its hosts are its own; set by who wires.
        unbound: policies for services that use no waypoint, by the selectors of these; set by who wires.
    """

    modes: Collection[str, PeerAuthentication]
    hosts: Collection[Key, Hosts]
    unbound: SelectorIndex[Key, Unbound]

    def __init__(self, lookups: Lookups, nodes: Collection[Key, Node], waypoints: Waypoints) -> None:
        self._lookups = lookups
        self._waypoints = waypoints
        self._nodes = nodes

    def mode(self, group: Group[str, Key, PeerAuthentication], _: Fetch) -> PeerAuthentication | None:
        """Return the PeerAuthentication that counts for a namespace."""
        return peer_authentication.oldest(group.members.values())

    def hosts_of(self, entry: ServiceEntry, fetch: Fetch) -> Hosts:
        """Return an entry's own hosts: a Kubernetes service with the same name goes first, then the oldest entry."""
        look = self._lookups
        namespace = entry.metadata.namespace
        served, canonical = [], set()
        for host in dict.fromkeys(entry.spec.hosts):
            owner = self._kubernetes(host, fetch)
            if owner != namespace and fetch.holds(look.hosts_within, (namespace, host)):
                served.append(host)
            if owner is None and fetch.holds(look.hosts, host):
                canonical.add(host)
        return Hosts(tuple(served), frozenset(canonical))

    def settings(self, config: MeshConfig, _: Fetch) -> Resources:
        """Return the settings of proxies."""
        return (resources.of_settings(proxy_settings.translate(config)),)

    def policy(self, policy: AuthorizationPolicy, fetch: Fetch) -> Policy:
        """Return an AuthorizationPolicy for layer 4."""
        translation = authorization.translate(policy, fetch.setting(self._lookups.mesh))
        made = () if translation.policy is None else (resources.of_policy(translation.policy),)
        return Policy(made, tuple(translation.problems))

    def peer(self, peer: PeerAuthentication, fetch: Fetch) -> Resources:
        """Return the policy of a PeerAuthentication whose ports differ."""
        mesh = fetch.setting(self._lookups.mesh)
        if peer.metadata.namespace == mesh.root_namespace:
            return ()
        parent_is_strict = self._levels(peer.metadata.namespace, frozenset(), mesh, fetch).parent_is_strict
        translated = peer_authentication.converted(peer, parent_is_strict=parent_is_strict)
        return () if translated is None else (resources.of_policy(translated),)

    def static(self, _: Group[Key, Key, PeerAuthentication], fetch: Fetch) -> Resources:
        """Return the policy that denies callers without identity: there while any PeerAuthentication is."""
        root = fetch.setting(self._lookups.mesh).root_namespace
        return (resources.of_policy(peer_authentication.static_strict(root)),)

    def pod(self, pod: Pod, fetch: Fetch) -> Resources:
        """Return a pod's workload."""
        mesh = fetch.setting(self._lookups.mesh)
        namespace, labels = pod.metadata.namespace, frozenset(pod.metadata.labels.items())
        workload = workloads.translate_pod(
            pod,
            mesh,
            services=self._services_of(namespace, labels, fetch),
            node=fetch.find(self._nodes, ("", pod.spec.node_name)),
            policies=self._policies_of(namespace, labels, mesh, fetch),
            entries=[
                (entries.service_name(entry, host), entries.entry_ports(entry, {}))
                for entry, host in self._entries_of(namespace, labels, fetch)
            ],
            waypoint=gateways.translate(self._waypoints.of_workload(pod.metadata, fetch), mesh),
            registry_only=self._is_registry_only(pod, fetch),
        )
        return () if workload is None else (resources.of_workload(workload),)

    def workload_entry(self, entry: WorkloadEntry, fetch: Fetch) -> Resources:
        """Return a WorkloadEntry's workload."""
        mesh = fetch.setting(self._lookups.mesh)
        namespace, labels = entry.metadata.namespace, frozenset(entry.spec.labels.items())
        chosen = {
            mesh.service_name(service): entries.kubernetes_ports(service, entry)
            for service in self._services_of(namespace, labels, fetch)
        }
        for owner, host in self._entries_of(namespace, labels, fetch):
            chosen[entries.service_name(owner, host)] = entries.entry_ports(owner, entry.spec.ports)
        policies = self._policies_of(namespace, labels, mesh, fetch)
        waypoint = gateways.translate(self._waypoints.of_workload(entry.metadata, fetch), mesh)
        workload = entries.translate_workload(entry, mesh, services=chosen, policies=policies, waypoint=waypoint)
        return () if workload is None else (resources.of_workload(workload),)

    def entry(self, entry: ServiceEntry, fetch: Fetch) -> Resources:
        """Return a ServiceEntry's services and the workloads that it lists."""
        mesh = fetch.setting(self._lookups.mesh)
        namespace = None
        if mesh.service_entry_visibility is not None:
            namespace = fetch.find(self._lookups.namespaces, ("", entry.metadata.namespace))
        visible = visibility.of_entry(entry, mesh, namespace)
        own = fetch.find(self.hosts, entry.key) or Hosts((), frozenset())
        attached = fetch.find(self._waypoints.entries, entry.key)
        found = entries.translate_hosts(
            entry,
            own.served,
            mesh,
            canonical=own.canonical,
            visibility=visible,
            waypoint=gateways.translate(self._waypoints.of_entry(entry.key, fetch), mesh),
            ingress_use_waypoint=attached is not None and bool(attached.ingress),
        )
        of_endpoints = gateways.translate(self._waypoints.of_workload(entry.metadata, fetch), mesh)
        endpoints = entries.translate_endpoints(entry, own.served, mesh, of_endpoints)
        return (*map(resources.of_service, found), *map(resources.of_workload, endpoints))

    def service(self, service: Service, fetch: Fetch) -> Resources:
        """Return a Kubernetes service."""
        mesh = fetch.setting(self._lookups.mesh)
        attached = fetch.find(self._waypoints.services, service.key)
        translated = services.translate(
            service,
            mesh,
            waypoint=gateways.translate(self._waypoints.of_service(service.key, fetch), mesh),
            ingress_use_waypoint=attached is not None and bool(attached.ingress),
        )
        return () if translated is None else (resources.of_service(translated),)

    def slice(self, item: EndpointSlice, fetch: Fetch) -> Resources:
        """Return the workloads of endpoints that are no pods."""
        namespace = item.metadata.namespace
        name = item.metadata.labels.get(names.SERVICE_NAME_LABEL, "")
        service = fetch.find(self._lookups.services, (namespace, name))
        if service is None or service.spec.type == "ExternalName":
            return ()
        found = workloads.translate_slice(item, service, fetch.setting(self._lookups.mesh))
        return tuple(map(resources.of_workload, found))

    def _is_registry_only(self, pod: Pod, fetch: Fetch) -> bool:
        namespace = fetch.find(self._lookups.namespaces, ("", pod.metadata.namespace))
        return is_registry_only(pod.metadata.labels, {} if namespace is None else namespace.metadata.labels)

    def _kubernetes(self, host: str, fetch: Fetch) -> str | None:
        """Return the namespace of the Kubernetes service with this host name, or ``None``."""
        name, _, rest = host.partition(".")
        namespace, _, suffix = rest.partition(".")
        if suffix != f"svc.{fetch.setting(self._lookups.mesh).cluster_domain}":
            return None
        return namespace if fetch.find(self._lookups.services, (namespace, name)) is not None else None

    def _entries_of(self, namespace: str, labels: Labels, fetch: Fetch) -> list[tuple[ServiceEntry, str]]:
        """Return the entries that select a workload, with their hosts."""
        found = fetch.matching(self._lookups.entries_by_selector, namespace, labels)
        return [
            (entry, host)
            for entry in found
            if (own := fetch.find(self.hosts, entry.key)) is not None
            for host in own.served
        ]

    def _services_of(self, namespace: str, labels: Labels, fetch: Fetch) -> list[Service]:
        found = fetch.matching(self._lookups.services_by_selector, namespace, labels)
        return sorted(found, key=lambda service: service.metadata.name)

    def _policies_of(self, namespace: str, labels: Labels, mesh: MeshContext, fetch: Fetch) -> list[str]:
        chosen = [
            "/".join(policy.key)
            for scope in {namespace, mesh.root_namespace}
            for policy in fetch.matching(self._lookups.policies_by_selector, scope, labels)
            if authorization.is_sent(policy, mesh)
        ]
        for of_service in fetch.matching(self.unbound, namespace, labels):
            chosen += [policy.name for policy in of_service.policies.values()]
        levels = self._levels(namespace, labels, mesh, fetch)
        return [*sorted(chosen), *peer_authentication.attached(levels, mesh.root_namespace)]

    def _levels(self, namespace: str, labels: Labels, mesh: MeshContext, fetch: Fetch) -> peer_authentication.Levels:
        root = mesh.root_namespace
        if namespace == root:
            return peer_authentication.Levels(mesh=fetch.find(self.modes, root))
        return peer_authentication.Levels(
            mesh=fetch.find(self.modes, root),
            namespace=fetch.find(self.modes, namespace),
            workload=peer_authentication.oldest(fetch.matching(self._lookups.peers_by_selector, namespace, labels)),
        )
