"""What each waypoint gets, as collections: clusters, endpoints, listeners and routes, each with the view it is for."""

from collections.abc import Iterable
from typing import Any

from envoy.config.listener.v3 import listener_components_pb2

from controlplane.envoy import clusters, endpoints, filter_chains, listeners, names, routes, tokens, virtual_hosts
from controlplane.envoy.authorization import custom, filters
from controlplane.envoy.filter_chains import Filters
from controlplane.envoy.placing import Made, Placed, Source, placed
from controlplane.envoy.upstreams import Upstreams
from controlplane.graph.derived import Derived, Fetch
from controlplane.graph.lookups import Group, Index
from controlplane.graph.scheduler import Graph
from controlplane.routing.collections import RoutingCollections
from controlplane.routing.destinations import Rules
from controlplane.routing.ir import ConnectionRule, HttpRule, Target
from controlplane.routing.policies import Policies
from controlplane.routing.services import Port, Service
from controlplane.stages import CHAINS, CLUSTERS, PROXIES
from controlplane.waypoints.collections import Waypoints
from controlplane.waypoints.waypoint import Waypoint
from meshkit.kube import Key

Chains = tuple[listener_components_pb2.FilterChain, ...]


class EnvoyCollections:
    """The resources of all waypoints.

    Attributes:
        made: the collections of resources.
    """

    def __init__(self, graph: Graph, routing: RoutingCollections, waypoints: Waypoints, policies: Policies) -> None:
        self._routing = routing
        self._policies = policies
        self._waypoints = waypoints
        self._chains: Derived[Key, tuple[Chains, Made]] = Derived(
            graph, "filter chains", routing.services, CHAINS, self._filter_chains
        )
        of_requests: Derived[Key, Made] = Derived(graph, "routes", routing.services, PROXIES, self._routes)
        foreign: list[Index[tuple[Key, Target], Key, Any]] = [
            Index(of_requests, lambda made: made.foreign),
            Index(self._chains, lambda found: found[1].foreign),
        ]
        self.made: tuple[Derived[Any, Made], ...] = (
            Derived(graph, "clusters", routing.services, CLUSTERS, self._clusters),
            Derived(graph, "foreign clusters of requests", foreign[0], CLUSTERS, self._foreign_http),
            Derived(graph, "foreign clusters of connections", foreign[1], CLUSTERS, self._foreign_tcp),
            Derived(graph, "endpoints", routing.services, CLUSTERS, self._endpoints),
            Derived(graph, "listeners", waypoints.known, PROXIES, self._listeners),
            of_requests,
        )
        self._by_source: list[Index[Source, Any, Made]] = [Index(made, lambda one: one.sources) for made in self.made]

    def of_source(self, kind: str, key: Key, fetch: Fetch) -> tuple[Placed, ...]:
        """Return the resources that an object has a part in."""
        found = (one for index in self._by_source for one in fetch.members(index, (kind, key)))
        return tuple(one for made in found for one in made.placed)

    def _upstreams(self, service: Service, fetch: Fetch) -> Upstreams | None:
        """Return the clusters as the waypoint of a service sees them; ``None`` for a service without one."""
        waypoint = self._waypoints.serving(service.key, fetch)
        return None if waypoint is None else Upstreams(self._routing, self._waypoints, waypoint.key, fetch)

    def _routes(self, service: Service, fetch: Fetch) -> Made | None:
        upstreams = self._upstreams(service, fetch)
        if upstreams is None:
            return None
        view, sources, made = upstreams.view, upstreams.sources, []
        for port in service.ports:
            if not port.protocol.is_http:
                continue
            rules = self._routing.http_rules(service, port, view[0], fetch)
            sources.update(_origins(rules))
            name = names.inbound_vip(service.host, port.number, is_http=True)
            own = upstreams.find(Target(service.host, port.number), port.number, is_http=True)
            made.append(virtual_hosts.of_port(name, port, rules, own, _http(upstreams, port)))
        return Made(placed(view, made), frozenset(sources), frozenset(upstreams.foreign))

    def _filter_chains(self, service: Service, fetch: Fetch) -> tuple[Chains, Made] | None:
        upstreams = self._upstreams(service, fetch)
        if upstreams is None:
            return None
        found: list[listener_components_pb2.FilterChain] = []
        cluster = self._routing.cluster_id(fetch)
        of_policies = self._filters(service, upstreams, fetch)
        for port in service.ports:
            rule = self._routing.connection_rule(service, port, upstreams.view[0], fetch)
            if rule is not None:
                upstreams.sources.update(_origins([rule]))
            found += filter_chains.of_port(
                service, port, rule, _tcp(upstreams, port), filters=of_policies, cluster=cluster
            )
        return tuple(found), Made((), frozenset(upstreams.sources), frozenset(upstreams.foreign))

    def _filters(self, service: Service, upstreams: Upstreams, fetch: Fetch) -> Filters:
        """Return the filters of the policies for a service: tokens are verified before rules look at them."""
        authentication = self._policies.authentication(service, upstreams.view, fetch)
        authorization = self._policies.authorization(service, upstreams.view, fetch)
        upstreams.sources.update(("RequestAuthentication", policy.key) for policy in authentication)
        upstreams.sources.update(("AuthorizationPolicy", policy.key) for policy in authorization)
        verify = tokens.of_policies(authentication, lambda rule: self._policies.keys(rule, fetch))
        asked = custom.of_requests(
            authorization,
            self._policies.providers(fetch),
            lambda target: upstreams.find(target, target.port, is_http=True).cluster,
        )
        http = (*asked, *([] if verify is None else [verify]), *filters.of_requests(authorization))
        prefix = service.host
        network = (*custom.of_connections(authorization, prefix), *filters.of_connections(authorization, prefix))
        return Filters(http, network)

    def _clusters(self, service: Service, fetch: Fetch) -> Made | None:
        upstreams = self._upstreams(service, fetch)
        if upstreams is None:
            return None
        rules = upstreams.rules(service)
        made = [
            clusters.of_service(name, service, port, subset, rules.policy(port.number, subset))
            for name, port, subset in _own_clusters(service, rules)
        ]
        return Made(placed(upstreams.view, made), frozenset(upstreams.sources))

    def _endpoints(self, service: Service, fetch: Fetch) -> Made | None:
        upstreams = self._upstreams(service, fetch)
        if upstreams is None:
            return None
        rules = upstreams.rules(service)
        found = self._routing.endpoints(service, fetch)
        made = [
            endpoints.of_cluster(name, found, port.number, _labels(rules, subset))
            for name, port, subset in _own_clusters(service, rules)
        ]
        return Made(placed(upstreams.view, made), frozenset(upstreams.sources))

    def _foreign_http(self, group: Group[tuple[Key, Target], Key, Any], fetch: Fetch) -> Made | None:
        return self._foreign(group.key, fetch)

    def _foreign_tcp(self, group: Group[tuple[Key, Target], Key, Any], fetch: Fetch) -> Made | None:
        return self._foreign(group.key, fetch)

    def _foreign(self, key: tuple[Key, Target], fetch: Fetch) -> Made | None:
        """Return the cluster and the endpoints of a target that is no service of the waypoint."""
        view, target = key
        upstreams = Upstreams(self._routing, self._waypoints, view, fetch)
        service = self._routing.service(target.host, fetch)
        port = None if service is None else service.port(target.port)
        if service is None or port is None:
            return None
        rules = upstreams.rules(service)
        if target.subset and rules.subset(target.subset) is None:
            return None
        name = names.outbound(service.host, port.number, target.subset)
        policy = rules.policy(port.number, target.subset)
        found, labels = self._routing.endpoints(service, fetch), _labels(rules, target.subset)
        made = (
            clusters.of_service(name, service, port, target.subset, policy),
            endpoints.of_cluster(name, found, port.number, labels),
        )
        return Made(placed(view, made), frozenset(upstreams.sources))

    def _listeners(self, waypoint: Waypoint, fetch: Fetch) -> Made:
        keys = fetch.find(self._waypoints.services_of, waypoint.key) or ()
        found = [one for key in keys if (one := fetch.find(self._chains, key)) is not None]
        chains = [chain for one, _ in found for chain in one]
        sources = frozenset(source for _, made in found for source in made.sources)
        made = (
            clusters.main_internal(),
            clusters.connect_originate(),
            listeners.connect_terminate(),
            listeners.main_internal(chains),
            listeners.connect_originate(),
        )
        return Made(placed(waypoint.key, made), sources)


def _http(upstreams: Upstreams, port: Port) -> routes.Upstreams:
    return lambda target: upstreams.find(target, port.number, is_http=True)


def _tcp(upstreams: Upstreams, port: Port) -> routes.Upstreams:
    return lambda target: upstreams.find(target, port.number, is_http=False)


def _origins(rules: Iterable[HttpRule | ConnectionRule]) -> Iterable[Source]:
    return {(rule.origin.kind, rule.origin.key) for rule in rules}


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
