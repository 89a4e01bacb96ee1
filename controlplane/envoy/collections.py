"""What each waypoint gets, as collections: clusters, endpoints, listeners and routes, each with the view it is for."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from controlplane.envoy import balancing, clusters, endpoints, listeners, names, virtual_hosts
from controlplane.envoy.routes import Upstream
from controlplane.graph.derived import Derived, Fetch
from controlplane.graph.lookups import Group, Index
from controlplane.graph.scheduler import Graph
from controlplane.routing.collections import RoutingCollections
from controlplane.routing.destinations import Rules
from controlplane.routing.ir import Target
from controlplane.routing.services import Port, Service
from controlplane.stages import CLUSTERS, PROXIES
from controlplane.waypoints.collections import Waypoints
from controlplane.waypoints.waypoint import Waypoint
from meshapi import names as mesh_names
from meshkit.kube import Key
from meshkit.xds.source import Resource, versioned


@dataclass(frozen=True, slots=True)
class Placed:
    """A resource of one view.

    Attributes:
        view: key of the waypoint's Gateway.
        type_url: of the resource.
        resource: the resource.
    """

    view: Key
    type_url: str
    resource: Resource


@dataclass(frozen=True, slots=True)
class Routes:
    """The routes of an attached service.

    Attributes:
        placed: for each HTTP port.
        foreign: targets that are no services of the waypoint, by view.
    """

    placed: tuple[Placed, ...]
    foreign: frozenset[tuple[Key, Target]]


class EnvoyCollections:
    """The resources of all waypoints.

    Attributes:
        routes: by key of the attached service.
        placed: the collections of resources.
    """

    def __init__(self, graph: Graph, routing: RoutingCollections, waypoints: Waypoints) -> None:
        self._routing = routing
        self._waypoints = waypoints
        self.routes: Derived[Key, Routes] = Derived(graph, "routes", routing.services, PROXIES, self._routes)
        foreign: Index[tuple[Key, Target], Key, Routes] = Index(self.routes, lambda made: made.foreign)
        self.placed: tuple[Derived[Any, tuple[Placed, ...]], ...] = (
            Derived(graph, "listeners", waypoints.ready, PROXIES, self._listeners),
            Derived(graph, "clusters", routing.services, CLUSTERS, self._clusters),
            Derived(graph, "endpoints", routing.services, CLUSTERS, self._endpoints),
            Derived(graph, "foreign clusters", foreign, CLUSTERS, self._foreign),
        )

    def _waypoint(self, service: Service, fetch: Fetch) -> Waypoint | None:
        return self._waypoints.of_service(service.key, fetch)

    def _rules(self, service: Service, view: Key, fetch: Fetch) -> Rules:
        return self._routing.rules(service.host, view[0], service.namespace, fetch)

    def _routes(self, service: Service, fetch: Fetch) -> Routes | None:
        waypoint = self._waypoint(service, fetch)
        if waypoint is None:
            return None
        view = waypoint.key
        foreign: set[tuple[Key, Target]] = set()
        routings = self._routing.routings(service, view[0], fetch)

        def upstream(target: Target) -> Upstream:
            found = self._upstream(target, view, called, fetch)
            if not found.is_own:
                foreign.add((view, found.target))
            return found.upstream

        made = []
        for port in service.ports:
            if port.protocol.is_http:
                called = port.number
                name = names.inbound_vip(service.host, port.number, is_http=True)
                own = upstream(Target(service.host, port.number))
                made.append(
                    _placed(view, mesh_names.ROUTE_TYPE, virtual_hosts.of_port(name, port, routings, own, upstream))
                )
        return Routes(tuple(made), frozenset(foreign))

    def _upstream(self, target: Target, view: Key, called: int, fetch: Fetch) -> "_Found":
        """Return the cluster of a target: of a service of the waypoint, or a foreign one."""
        service = self._routing.service(target.host, fetch)
        port = None if service is None else _port(service, target.port, called)
        if service is None or port is None:
            return _Found(Upstream(names.BLACK_HOLE), target, is_own=True)
        waypoint = self._waypoint(service, fetch)
        is_own = waypoint is not None and waypoint.key == view
        if is_own:
            name = names.inbound_vip(service.host, port.number, is_http=True, subset=target.subset)
        else:
            name = names.outbound(service.host, port.number, target.subset)
        policy = self._rules(service, view, fetch).policy(port.number, target.subset)
        return _Found(
            Upstream(name, balancing.hash_policies(policy)),
            Target(service.host, port.number, target.subset),
            is_own=is_own,
        )

    def _clusters(self, service: Service, fetch: Fetch) -> tuple[Placed, ...] | None:
        waypoint = self._waypoint(service, fetch)
        if waypoint is None:
            return None
        rules = self._rules(service, waypoint.key, fetch)
        return tuple(
            _placed(
                waypoint.key,
                mesh_names.CLUSTER_TYPE,
                clusters.of_service(name, service, port, subset, rules.policy(port.number, subset)),
            )
            for name, port, subset in _own_clusters(service, rules)
        )

    def _endpoints(self, service: Service, fetch: Fetch) -> tuple[Placed, ...] | None:
        waypoint = self._waypoint(service, fetch)
        if waypoint is None:
            return None
        rules = self._rules(service, waypoint.key, fetch)
        found = self._routing.endpoints(service, fetch)
        return tuple(
            _placed(
                waypoint.key,
                mesh_names.ENDPOINT_TYPE,
                endpoints.of_cluster(name, found, port.number, _labels(rules, subset)),
            )
            for name, port, subset in _own_clusters(service, rules)
        )

    def _foreign(self, group: Group[tuple[Key, Target], Key, Routes], fetch: Fetch) -> tuple[Placed, ...] | None:
        view, target = group.key
        service = self._routing.service(target.host, fetch)
        port = None if service is None else service.port(target.port)
        if service is None or port is None:
            return None
        rules = self._rules(service, view, fetch)
        if target.subset and rules.subset(target.subset) is None:
            return None
        name = names.outbound(service.host, port.number, target.subset)
        policy = rules.policy(port.number, target.subset)
        found = self._routing.endpoints(service, fetch)
        labels = _labels(rules, target.subset)
        return (
            _placed(view, mesh_names.CLUSTER_TYPE, clusters.of_service(name, service, port, target.subset, policy)),
            _placed(view, mesh_names.ENDPOINT_TYPE, endpoints.of_cluster(name, found, port.number, labels)),
        )

    def _listeners(self, waypoint: Waypoint, fetch: Fetch) -> tuple[Placed, ...]:
        view = waypoint.key
        keys = fetch.find(self._waypoints.services_of, view) or ()
        found = (fetch.find(self._routing.services, key) for key in keys)
        served = [listeners.Served(service) for service in found if service is not None]
        return (
            _placed(view, mesh_names.CLUSTER_TYPE, clusters.main_internal()),
            _placed(view, mesh_names.CLUSTER_TYPE, clusters.connect_originate()),
            _placed(view, mesh_names.LISTENER_TYPE, listeners.connect_terminate()),
            _placed(view, mesh_names.LISTENER_TYPE, listeners.main_internal(served)),
            _placed(view, mesh_names.LISTENER_TYPE, listeners.connect_originate()),
        )


@dataclass(frozen=True, slots=True)
class _Found:
    """The cluster of a target, the target with its port, and whether it is a service of the waypoint."""

    upstream: Upstream
    target: Target
    is_own: bool


def _port(service: Service, wanted: int, called: int) -> Port | None:
    """Return the port of a target: the given one, else the only one, else the one that was called."""
    return service.port(wanted) or (None if wanted else service.port(called))


def _own_clusters(service: Service, rules: Rules) -> Iterable[tuple[str, Port, str]]:
    for port in service.ports:
        kinds = [True] if port.protocol.is_http else []
        kinds += [False] if port.protocol.is_tcp else []
        for is_http in kinds:
            for subset in ("", *(one.name for one in rules.subsets)):
                yield names.inbound_vip(service.host, port.number, is_http=is_http, subset=subset), port, subset


def _labels(rules: Rules, subset: str) -> frozenset[tuple[str, str]]:
    found = rules.subset(subset) if subset else None
    return frozenset() if found is None else frozenset(found.labels.items())


def _placed(view: Key, type_url: str, message: Any) -> Placed:
    name = message.cluster_name if type_url == mesh_names.ENDPOINT_TYPE else message.name
    return Placed(view, type_url, versioned(name, message))
