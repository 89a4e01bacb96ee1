"""VirtualServices at gateways of Istio's API: for which hosts, at which servers. Pure.

Facts: Istio's ``pilot/pkg/networking/core/gateway.go``. A VirtualService counts at the servers of the Gateways that it
names, for the hosts that both have, where the server's hosts admit its namespace. Requests, connections that are passed
through with TLS, and other connections each have rules of their own.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from controlplane.gateways import servers
from controlplane.gateways.listener import EdgeGateway, EdgeListener, Spoken, intersection, owner_of
from controlplane.routing import precedence
from controlplane.routing.connection_routes import REFUSAL
from controlplane.routing.edge import EdgeHost
from controlplane.routing.exports import is_exported
from controlplane.routing.ir import ConnectionRule, HttpRule, Routing
from controlplane.routing.virtual_services import MESH, Here
from meshapi import hosts
from meshapi.errors import listed
from meshapi.resources.virtual_service import VirtualService, gateway_key
from meshkit.kube import Key

Age = tuple[str, str, str]
Translate = Callable[[Here], Routing]


@dataclass(frozen=True, slots=True)
class Chain:
    """Connections at one place.

    Attributes:
        gateway: key of the place.
        routes: name of the filter chains.
        hostname: server name of TLS, or a pattern; empty: all.
    """

    gateway: Key
    routes: str
    hostname: str


@dataclass(frozen=True, slots=True)
class AtGateways:
    """What a VirtualService says at gateways.

    Attributes:
        key: of the VirtualService.
        age: its place among others.
        requests: rules for requests by where they count, in order.
        redirected: of these places, those where plain requests are redirected to HTTPS.
        connections: the rule for connections by where it counts.
        problems: what has no effect, and why.
        is_ranked: whether its rules have their place among others' by their paths, not by age: those of Ingresses.
    """

    key: Key
    age: Age
    requests: tuple[tuple[EdgeHost, tuple[HttpRule, ...]], ...] = ()
    redirected: frozenset[EdgeHost] = frozenset()
    connections: tuple[tuple[Chain, ConnectionRule], ...] = ()
    problems: tuple[str, ...] = ()
    is_ranked: bool = False

    def rules(self, at: EdgeHost) -> tuple[HttpRule, ...]:
        """Return the rules for requests at a place."""
        return next((rules for place, rules in self.requests if place == at), ())


@dataclass(slots=True)
class _Binding:
    """A VirtualService while it is bound.

    Attributes:
        item: the VirtualService.
        hosts: its hosts, complete; empty: all.
        translate: returns its rules at a gateway.
    """

    item: VirtualService
    hosts: tuple[str, ...]
    translate: Translate
    requests: dict[EdgeHost, tuple[HttpRule, ...]] = field(default_factory=dict)
    redirected: set[EdgeHost] = field(default_factory=set)
    connections: dict[Chain, ConnectionRule] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    matched: set[str] = field(default_factory=set)
    """Hosts that a server has."""

    def bind(self, path: str, owner: Key, places: tuple[EdgeGateway, ...] | None) -> None:
        """Take in the rules at one Gateway."""
        shown = f"Gateway {'/'.join(owner)}"
        if places is None:
            self.problems.append(f"{path}: {shown} does not exist; correct the name, or write NAMESPACE/NAME")
            return
        if not places:
            self.problems.append(f"{path}: {shown} is served by no pod")
            return
        seeing = [one for one in places if is_exported(self.item, one.key[0])]
        if not seeing:
            self.problems.append(f"{path}: exportTo leaves out the namespaces of the pods that serve {shown}")
            return
        before, matched = len(self.requests) + len(self.connections), len(self.matched)
        admitted = False
        for gateway in seeing:
            for listener in gateway.of(servers.KIND, owner):
                fitting = tuple(self._common(listener))
                admitted = admitted or bool(fitting)
                if fitting and listener.is_served:
                    self._bind_at(gateway, listener, [common for common, _ in fitting])
        if admitted and len(self.requests) + len(self.connections) == before:
            self.problems.append(f"{path}: none of its rules fits a server of {shown} that is served; see its status")
        elif not admitted and len(self.matched) == matched:
            have = sorted({one.hostname or "*" for gateway in seeing for one in gateway.of(servers.KIND, owner)})
            self.problems.append(f"{path}: none of spec.hosts is one of {shown}'s ({', '.join(have)})")

    def _common(self, listener: EdgeListener) -> Iterator[tuple[str, str]]:
        """Yield the hosts that a server has in common with it, each with its own one."""
        if listener.scope not in {"*", self.item.metadata.namespace}:
            return
        for own in self.hosts:
            found = intersection(listener.hostname, own)
            if found is not None:
                self.matched.add(own)
                yield found, own

    def _bind_at(self, gateway: EdgeGateway, listener: EdgeListener, common: Iterable[str]) -> None:
        routing = self.translate(Here(listener.owner, gateway.key[0], gateway.labels))
        self.problems += routing.problems
        if listener.spoken is not None and listener.spoken.is_http:
            self._bind_requests(gateway, listener, common, routing)
        elif listener.spoken is Spoken.PASSTHROUGH:
            for rule in _fitting(routing.tls, listener):
                for name in rule.server_names:
                    self._bind_connection(gateway, listener, intersection(listener.hostname, name), rule)
        elif listener.spoken is not Spoken.AUTO_PASSTHROUGH:
            first = next(iter(_fitting(routing.tcp, listener)), None)
            if first is not None:
                self._bind_connection(gateway, listener, listener.hostname, first)

    def _bind_requests(
        self, gateway: EdgeGateway, listener: EdgeListener, common: Iterable[str], routing: Routing
    ) -> None:
        rules = tuple(rule for rule in routing.http if rule.port in {0, listener.port})
        port = gateway.port_of(listener.routes_name)
        for hostname in common if rules else ():
            place = EdgeHost(gateway.key, listener.routes_name, port, hostname)
            self.requests[place] = tuple(dict.fromkeys((*self.requests.get(place, ()), *rules)))
            if listener.redirects:
                self.redirected.add(place)

    def _bind_connection(
        self, gateway: EdgeGateway, listener: EdgeListener, hostname: str | None, rule: ConnectionRule
    ) -> None:
        if hostname is None:
            return
        if listener.spoken is Spoken.TCP:
            hostname = ""
        elif owner_of(hostname, _rivals(gateway, listener)) != listener.hostname:
            return  # another server of the port has the name to itself
        found = replace(rule, server_names=())
        self.connections.setdefault(Chain(gateway.key, listener.routes_name, hostname), found)


def bind(
    item: VirtualService,
    domain: str,
    find: Callable[[Key], tuple[EdgeGateway, ...] | None],
    translate: Translate,
) -> AtGateways | None:
    """Return what a VirtualService says at the gateways that it names; ``None``: it names none.

    Args:
        item: the object.
        domain: the cluster's domain, which completes short host names.
        find: returns the gateways that serve a Gateway; ``None``: there is no such Gateway.
        translate: returns the object's rules at a gateway.
    """
    own = item.metadata.namespace
    named = [(index, name) for index, name in enumerate(item.spec.gateways) if name != MESH]
    if not named or not item.spec.hosts:
        return None
    complete = (hosts.complete(host, own, domain) for host in item.spec.hosts)
    # The servers of one gateway ask for the same rules.
    once = functools.cache(translate)
    binding = _Binding(item, tuple("" if host == "*" else host for host in complete), once)
    for index, name in named:
        key = gateway_key(name, own)
        binding.bind(f"spec.gateways[{index}]", key, find(key))
    lost = [host or "*" for host in binding.hosts if host not in binding.matched]
    if binding.matched and lost and MESH not in item.spec.gateways:
        binding.problems.append(f"spec.hosts: no server of its gateways has {listed(lost)}")
    return AtGateways(
        item.key,
        item.metadata.age,
        tuple(binding.requests.items()),
        frozenset(binding.redirected),
        tuple(binding.connections.items()),
        tuple(dict.fromkeys(binding.problems)),
    )


def ordered(found: Iterable[AtGateways], at: EdgeHost) -> tuple[HttpRule, ...]:
    """Return the rules for one place: the oldest VirtualService's first, those for every request last.

    Those of Ingresses follow, the most specific path first.
    """
    by_age = sorted(found, key=lambda one: one.age)
    rules = [rule for one in by_age if not one.is_ranked for rule in one.rules(at)]
    rules += sorted((rule for one in by_age if one.is_ranked for rule in one.rules(at)), key=precedence.rank)
    return (*(one for one in rules if not one.match.is_catch_all), *(one for one in rules if one.match.is_catch_all))


def connections(found: Iterable[AtGateways], listener: EdgeListener, gateway: Key) -> Mapping[str, ConnectionRule]:
    """Return the rules for connections to a server by host name; empty: all hosts. What none is for is refused.

    For each host the oldest VirtualService counts, and of it the first rule.
    """
    rules: dict[str, ConnectionRule] = {}
    for one in sorted(found, key=lambda one: one.age):
        for chain, rule in one.connections:
            if (chain.gateway, chain.routes) == (gateway, listener.routes_name):
                rules.setdefault(chain.hostname, rule)
    rules.setdefault("" if listener.spoken is Spoken.TCP else listener.hostname, REFUSAL)
    return rules


def _fitting(rules: Iterable[ConnectionRule], listener: EdgeListener) -> Iterator[ConnectionRule]:
    yield from (rule for rule in rules if rule.port in {0, listener.port})


def _rivals(gateway: EdgeGateway, listener: EdgeListener) -> tuple[str, ...]:
    """Return the server names of a port; those by which clients name services themselves are nobody else's."""
    return tuple(
        one.hostname
        for one in gateway.served
        if one.socket == listener.socket
        and one.spoken is not None
        and one.spoken.has_tls
        and one.spoken is not Spoken.AUTO_PASSTHROUGH
    )
