"""What each proxy gets, as collections: clusters, endpoints, listeners and routes, each with the view it is for."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.route.v3 import route_pb2

from controlplane.envoy import (
    by_name,
    clusters,
    endpoints,
    filter_chains,
    listeners,
    names,
    routes,
    virtual_hosts,
    workloads,
)
from controlplane.envoy.assembling import assembled, patched_clusters
from controlplane.envoy.credentials import Credentials
from controlplane.envoy.edge.collections import EdgeCollections
from controlplane.envoy.filter_chains import Opening
from controlplane.envoy.patches import additions as added
from controlplane.envoy.patches import chains as chain_patches
from controlplane.envoy.patches import listeners as listener_patches
from controlplane.envoy.patches import patch
from controlplane.envoy.patches import routes as route_patches
from controlplane.envoy.patches.attachment import EnvoyFilters
from controlplane.envoy.patches.patch import Patching
from controlplane.envoy.placing import Effect, Made, Message, Placed, Source, origins, placed
from controlplane.envoy.policy_filters import PolicyFilters
from controlplane.envoy.telemetry.reporting import Reporting, TunnelReports
from controlplane.envoy.upstreams import Upstreams
from controlplane.graph.collection import Collection
from controlplane.graph.derived import Derived, Fetch
from controlplane.graph.lookups import Group, Index
from controlplane.graph.scheduler import Graph
from controlplane.inputs.sources import Inputs
from controlplane.routing import localities
from controlplane.routing.collections import RoutingCollections
from controlplane.routing.destinations import Rules
from controlplane.routing.ir import Target
from controlplane.routing.policies import Policies
from controlplane.routing.services import Discovery, Endpoint, Port, Service
from controlplane.routing.workloads import Attached, Place, Workloads
from controlplane.stages import CHAINS, CLUSTERS, PROXIES
from controlplane.waypoints.collections import Waypoints
from controlplane.waypoints.waypoint import Handles, Waypoint
from meshapi.names import HBONE_PORT
from meshkit.kube import Key


@dataclass(frozen=True, slots=True)
class Chains:
    """The filter chains of a service, or of all workloads, at a waypoint; without a host: of workloads."""

    view: Key
    host: str
    openings: tuple[Opening, ...]
    made: Made


@dataclass(frozen=True, slots=True)
class _Tunnels:
    """What a waypoint reports of its tunnels."""

    reports: TunnelReports
    made: Made


@dataclass(frozen=True, slots=True)
class _Named:
    """A cluster's name, and what it is of.

    Attributes:
        name: of the cluster.
        port: of the service.
        subset: of the endpoints; empty: all.
        is_sealed: whether connections carry TLS already, so that none is started.
    """

    name: str
    port: Port
    subset: str
    is_sealed: bool = False


class EnvoyCollections:
    """The resources of all waypoints and gateways.

    Attributes:
        credentials: the Secrets that clusters need.
        made: the collections of resources.
    """

    def __init__(
        self,
        graph: Graph,
        routing: RoutingCollections,
        waypoints: Waypoints,
        policies: Policies,
        patches: EnvoyFilters,
        *,
        inputs: Inputs,
        reporting: Reporting,
        attached: Workloads,
        edge: EdgeCollections,
    ) -> None:
        self._routing = routing
        self._filters = PolicyFilters(policies)
        self._patches = patches
        self._reporting = reporting
        self._waypoints = waypoints
        self._attached = attached
        # Services are Kubernetes' by key, and hosts of ServiceEntries by name.
        of: list[tuple[str, Collection[Any, Service]]] = [
            ("services", routing.services),
            ("entries", routing.entry_services),
        ]
        chains = [Derived(graph, f"filter chains of {name}", over, CHAINS, self._filter_chains) for name, over in of]
        requests = [Derived(graph, f"routes of {name}", over, PROXIES, self._routes) for name, over in of]
        self._chains: list[Index[Key, Any, Chains]] = [Index(one, lambda found: (found.view,)) for one in chains]
        self._direct = Derived(graph, "filter chains of workloads", waypoints.known, CHAINS, self._workload_chains)
        self._tunnels: Collection[Key, _Tunnels] = Derived(
            graph, "reports of tunnels", waypoints.known, CHAINS, self._tunnel_reports
        )
        foreign: list[Index[tuple[Key, Target], Any, Any]] = [
            *(Index(one, lambda made: made.foreign) for one in requests),
            *(Index(one, lambda found: found.made.foreign) for one in (*chains, self._direct)),
            Index(self._tunnels, lambda found: found.made.foreign),
            *(Index(one, lambda found: found.made.foreign) for one in edge.hosts),
            Index(edge.listeners, lambda made: made.foreign),
        ]
        own: list[Derived[Any, Made]] = [
            *(Derived(graph, f"clusters of {name}", over, CLUSTERS, self._clusters) for name, over in of),
            *(Derived(graph, f"foreign clusters {n}", one, CLUSTERS, self._foreign) for n, one in enumerate(foreign)),
        ]
        self.credentials = Credentials(graph, inputs, own)
        self.made: tuple[Derived[Any, Made], ...] = (
            *self.credentials.made,
            *own,
            *(Derived(graph, f"endpoints of {name}", over, CLUSTERS, self._endpoints) for name, over in of),
            *(
                Derived(graph, f"clusters of {name}", one, CLUSTERS, functools.partial(self._workload, name))
                for name, one in attached.indexes.items()
            ),
            Derived(graph, "listeners", waypoints.known, PROXIES, self._listeners),
            *requests,
            *edge.made,
        )
        self._by_source: list[Index[Source, Any, Made]] = [Index(made, lambda one: one.sources) for made in self.made]

    def of_source(self, kind: str, key: Key, fetch: Fetch) -> tuple[Placed, ...]:
        """Return the resources that an object has a part in."""
        found = (one for index in self._by_source for one in fetch.members(index, (kind, key)))
        return tuple(one for made in found for one in made.placed)

    def effects(self, key: Key, fetch: Fetch) -> frozenset[Effect]:
        """Return what the patches of an EnvoyFilter have done."""
        found = (one for index in self._by_source for one in fetch.members(index, (patch.KIND, key)))
        return frozenset(effect for made in found for effect in made.effects if effect.key == key)

    def _upstreams(self, service: Service, fetch: Fetch) -> Upstreams | None:
        """Return the clusters as the waypoint of a service sees them; ``None`` for a service without one."""
        waypoint = self._waypoints.serving(service.kind, service.key, fetch)
        return None if waypoint is None else Upstreams(self._routing, self._waypoints, waypoint.key, fetch)

    def _routes(self, service: Service, fetch: Fetch) -> Made | None:
        upstreams = self._upstreams(service, fetch)
        if upstreams is None:
            return None
        view, sources, made = upstreams.view, upstreams.sources, []
        patching = self._patches.of(service, view, fetch)
        for port in service.ports:
            if not port.protocol.is_http:
                continue
            rules = self._routing.http_rules(service, port, view[0], fetch)
            sources.update(origins(rules))
            name = names.inbound_vip(service.host, port.number, is_http=True)
            own = upstreams.find(Target(service.host, port.number), port.number, is_http=True)
            found = virtual_hosts.of_port(name, port, rules, own, _http(upstreams, port))
            if service.discovery is Discovery.NAMED:
                by_name.restrict(found, service)
            route_patches.patch(found, patching)
            made.append(found)
        return assembled(upstreams, made, patching)

    def _workload(self, name: str, group: Group[Place, Key, Attached], fetch: Fetch) -> Made | None:
        """Return the cluster of an address."""
        found = self._attached.at(name, group, fetch)
        if found is None:
            return None
        view = group.key[0]
        patching = self._patches.of(None, view, fetch)
        made = patched_clusters([workloads.cluster(found)], patching)
        return Made(placed(view, made), frozenset(patching.sources), effects=frozenset(patching.effects))

    def _workload_chains(self, waypoint: Waypoint, fetch: Fetch) -> Chains | None:
        """Return the chains of all workloads; ``None`` for a waypoint that is not for workloads."""
        if not waypoint.handles_any(Handles.WORKLOAD):
            return None
        upstreams = Upstreams(self._routing, self._waypoints, waypoint.key, fetch)
        opening = workloads.opening(self._filters.of(None, upstreams), self._reporting.of_workloads(upstreams))
        patching = self._patches.of(None, waypoint.key, fetch)
        openings = tuple(chain_patches.patched([opening], patching))
        return Chains(waypoint.key, "", openings, assembled(upstreams, [], patching))

    def _filter_chains(self, service: Service, fetch: Fetch) -> Chains | None:
        upstreams = self._upstreams(service, fetch)
        if upstreams is None:
            return None
        found = []
        of_policies = self._filters.of(service, upstreams)
        reports = self._reporting.of_service(service, upstreams)
        for port in service.ports:
            rules = self._routing.connection_rules(service, port, upstreams.view[0], fetch)
            upstreams.sources.update(origins(rules))
            found.append(
                filter_chains.of_port(service, port, rules, _tcp(upstreams, port), filters=of_policies, reports=reports)
            )
        patching = self._patches.of(service, upstreams.view, fetch)
        openings = tuple(chain_patches.patched(found, patching))
        return Chains(upstreams.view, service.host, openings, assembled(upstreams, [], patching))

    def _clusters(self, service: Service, fetch: Fetch) -> Made | None:
        upstreams = self._upstreams(service, fetch)
        if upstreams is None:
            return None
        rules, found = upstreams.rules(service), self._in_clusters(service, fetch)
        patching = self._patches.of(service, upstreams.view, fetch)
        made = patched_clusters(
            [_cluster(one, service, rules, found) for one in _own_clusters(service, rules)], patching
        )
        return assembled(upstreams, made, patching)

    def _in_clusters(self, service: Service, fetch: Fetch) -> tuple[Endpoint, ...]:
        """Return the endpoints that clusters have in themselves; where addresses are listed, they come apart."""
        return self._routing.endpoints(service, fetch) if service.discovery.is_by_dns else ()

    def _endpoints(self, service: Service, fetch: Fetch) -> Made | None:
        upstreams = self._upstreams(service, fetch)
        if upstreams is None or service.discovery is not Discovery.LISTED:
            return None
        rules = upstreams.rules(service)
        found = self._routing.endpoints(service, fetch)
        made = [_assigned(one, service, rules, found) for one in _own_clusters(service, rules)]
        return Made(placed(upstreams.view, made), frozenset(upstreams.sources))

    def _foreign(self, group: Group[tuple[Key, Target], Any, Any], fetch: Fetch) -> Made | None:
        """Return the cluster and the endpoints of a target that is no service of the waypoint."""
        view, target = group.key
        upstreams = Upstreams(self._routing, self._waypoints, view, fetch)
        service = self._routing.service(target.host, fetch)
        port = None if service is None else service.port(target.port)
        if service is None or port is None:
            return None
        is_edge = self._routing.is_edge(view, fetch)
        through = self._at_waypoint(service, port, fetch) if is_edge else ()
        # What is said of a service counts at its waypoint, and not a second time.
        say = upstreams.sealed_rules if target.is_sealed else upstreams.rules
        rules = Rules() if through else say(service)
        if target.subset and not through and rules.subset(target.subset) is None:
            return None
        if through:
            service = replace(service, discovery=Discovery.LISTED)
        name = names.sealed if target.is_sealed else names.outbound
        one = _Named(name(service.host, port.number, target.subset), port, target.subset, is_sealed=target.is_sealed)
        patching = self._patches.of(None, view, fetch)
        cluster = _cluster(one, service, rules, self._in_clusters(service, fetch), is_edge=is_edge)
        made: list[Message] = [*patched_clusters([cluster], patching)]
        if service.discovery is Discovery.LISTED:
            found = through or self._routing.endpoints(service, fetch)
            made.append(_assigned(one if not through else replace(one, subset=""), service, rules, found))
        return assembled(upstreams, made, patching)

    def _at_waypoint(self, service: Service, port: Port, fetch: Fetch) -> tuple[Endpoint, ...]:
        """Return the pods of the waypoint that gateways go through to a service; none: they go past it."""
        waypoint = self._waypoints.for_ingress(service.kind, service.key, fetch)
        of_waypoint = None if waypoint is None else self._routing.service(waypoint.hostname, fetch)
        if of_waypoint is None or not service.addresses:
            return ()
        address = service.addresses[0]
        called = f"[{address}]:{port.number}" if ":" in address else f"{address}:{port.number}"
        return tuple(
            replace(one, targets=((port.number, HBONE_PORT),), has_tunnel=True, leads_to=called)
            for one in self._routing.endpoints(of_waypoint, fetch)
        )

    def _tunnel_reports(self, waypoint: Waypoint, fetch: Fetch) -> _Tunnels:
        upstreams = Upstreams(self._routing, self._waypoints, waypoint.key, fetch)
        reports = self._reporting.of_tunnels(upstreams)
        return _Tunnels(reports, Made((), frozenset(upstreams.sources), frozenset(upstreams.foreign)))

    def _listeners(self, waypoint: Waypoint, fetch: Fetch) -> Made:
        members = [one for index in self._chains for one in fetch.members(index, waypoint.key)]
        direct = fetch.find(self._direct, waypoint.key)
        openings = [opening for one in sorted(members, key=lambda one: one.host) for opening in one.openings]
        tunnels = fetch.find(self._tunnels, waypoint.key)
        parts = [one.made for one in (*members, direct, tunnels) if one is not None]
        reports = TunnelReports() if tunnels is None else tunnels.reports
        main = listeners.main_internal(openings, next(iter(direct.openings), None) if direct else None)
        every = (listeners.connect_terminate(reports.taken), main, listeners.connect_originate(reports.opened))
        patching, additions = (
            self._patches.of(None, waypoint.key, fetch),
            self._patches.of_waypoint(waypoint.key, fetch),
        )
        made: list[Message] = [
            *patched_clusters([clusters.main_internal(), clusters.connect_originate()], patching),
            *(one for listener in every if (one := listener_patches.patched(listener, patching)) is not None),
            *([_workload_routes(patching)] if direct else []),
            *added.of(additions),
        ]
        sources = {source for one in parts for source in one.sources} | {*patching.sources, *additions.sources}
        effects = {effect for one in parts for effect in one.effects} | patching.effects | additions.effects
        return Made(placed(waypoint.key, made), frozenset(sources), effects=frozenset(effects))


def _workload_routes(patching: Patching) -> route_pb2.RouteConfiguration:
    result = workloads.routes()
    route_patches.patch(result, patching)
    return result


def _cluster(
    one: _Named, service: Service, rules: Rules, found: Iterable[Endpoint], *, is_edge: bool = False
) -> cluster_pb2.Cluster:
    """Return a cluster with the endpoints that it has in itself."""
    policy = rules.policy(one.port.number, one.subset)
    if one.is_sealed:
        policy = replace(policy, tls=None)
    cluster = clusters.of_service(one.name, service, one.port, one.subset, policy, is_edge=is_edge)
    if service.discovery.is_by_dns:
        cluster.load_assignment.CopyFrom(_assigned(one, service, rules, found))
    return cluster


def _assigned(
    one: _Named, service: Service, rules: Rules, found: Iterable[Endpoint]
) -> endpoint_pb2.ClusterLoadAssignment:
    """Return the endpoints of a cluster: those that have the labels of its subset."""
    subset = rules.subset(one.subset) if one.subset else None
    labels = frozenset() if subset is None else frozenset(subset.labels.items())
    preference = localities.of(rules.policy(one.port.number, one.subset), service.distribution)
    return endpoints.of_cluster(one.name, found, one.port.number, labels, preference)


def _http(upstreams: Upstreams, port: Port) -> routes.Upstreams:
    return lambda target: upstreams.find(target, port.number, is_http=True)


def _tcp(upstreams: Upstreams, port: Port) -> routes.Upstreams:
    return lambda target: upstreams.find(target, port.number, is_http=False)


def _own_clusters(service: Service, rules: Rules) -> Iterable[_Named]:
    for port in service.ports:
        kinds = [True] if port.protocol.is_http else []
        kinds += [False] if port.protocol.is_tcp else []
        for is_http in kinds:
            # A name is no endpoint with labels, so there are no subsets of it.
            subsets = () if service.discovery is Discovery.NAMED else rules.subsets
            for subset in ("", *(one.name for one in subsets)):
                name = names.inbound_vip(service.host, port.number, is_http=is_http, subset=subset)
                yield _Named(name, port, subset)
