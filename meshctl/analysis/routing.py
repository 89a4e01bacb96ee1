"""Routes and settings of hosts: what they name and does not exist, what is never reached, what has no effect."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from meshapi import hosts, names
from meshapi.resources import core, networking
from meshapi.resources.destination_rule import DestinationRule
from meshapi.resources.request_authentication import RequestAuthentication
from meshapi.resources.virtual_service import Destination, HTTPRoute, TCPRoute, TLSRoute, VirtualService
from meshctl.analysis.messages import Code, Finding
from meshctl.analysis.world import World

_MESH: Final = "mesh"
_LABELS: Final = {"name", "stat_prefix"}
"""Of a match: they distinguish nothing."""


@dataclass(slots=True)
class _Known:
    """What routes can name.

    Attributes:
        ports: of each host; a wildcard is a host.
        subsets: that DestinationRules define for a host.
        with_waypoint: hosts that are called through a waypoint.
    """

    ports: dict[str, frozenset[int]] = field(default_factory=dict)
    subsets: dict[str, set[str]] = field(default_factory=dict)
    with_waypoint: set[str] = field(default_factory=set)

    def pattern(self, host: str) -> str | None:
        """Return the host as it is known, or the most specific wildcard above it."""
        return next((one for one in hosts.patterns(host) if one in self.ports), None)


def check(world: World) -> Iterator[Finding]:
    """Return what is wrong with routes and with settings of hosts."""
    known = _known(world)
    for rule in world.all(DestinationRule):
        yield from world.unknown(rule)
        yield from _destination_rule(world, known, rule)
    for item in world.all(VirtualService):
        yield from world.unknown(item)
        yield from _virtual_service(world, known, item)
    for authentication in world.all(RequestAuthentication):
        yield from world.unknown(authentication)


def _known(world: World) -> _Known:
    known = _Known()
    for service in world.all(core.Service):
        host = hosts.complete(service.metadata.name, service.metadata.namespace, world.cluster_domain)
        _add(world, known, host, service, [port.port for port in service.spec.ports])
    for entry in world.all(networking.ServiceEntry):
        for host in entry.spec.hosts:
            _add(world, known, host, entry, [port.number for port in entry.spec.ports])
    for rule in world.all(DestinationRule):
        host = hosts.complete(rule.spec.host, rule.metadata.namespace, world.cluster_domain)
        known.subsets.setdefault(host, set()).update(subset.name for subset in rule.spec.subsets)
    return known


def _add(
    world: World, known: _Known, host: str, item: core.Service | networking.ServiceEntry, ports: Sequence[int]
) -> None:
    known.ports[host] = known.ports.get(host, frozenset()) | frozenset(ports)
    metadata = item.metadata
    of_namespace = world.namespace_labels(metadata.namespace)
    used = metadata.labels.get(names.USE_WAYPOINT_LABEL, of_namespace.get(names.USE_WAYPOINT_LABEL))
    is_made = world.makes_waypoints and world.rules.enrol(metadata.namespace, of_namespace)
    if is_made if used is None else used not in {"", names.USE_WAYPOINT_NONE}:
        known.with_waypoint.add(host)


def _destination_rule(world: World, known: _Known, rule: DestinationRule) -> Iterator[Finding]:
    host = hosts.complete(rule.spec.host, rule.metadata.namespace, world.cluster_domain)
    found = _below(known, host)
    if not found:
        text = f"{host} is no Service and no host of a ServiceEntry; correct the name, or add the namespace"
        yield world.finding(Code.REFERENCED, rule, "spec.host", text)
    elif not known.with_waypoint.intersection(found):
        yield world.finding(Code.NO_WAYPOINT, rule, "spec.host", _without_waypoint([host]))


def _virtual_service(world: World, known: _Known, item: VirtualService) -> Iterator[Finding]:
    spec, namespace = item.spec, item.metadata.namespace
    for path, destination in _destinations(item):
        yield from _destination(world, known, item, path, destination)
    for index, rule in enumerate(spec.http):
        if rule.delegate is not None and not _exists(world, rule.delegate.namespace or namespace, rule.delegate.name):
            shown = f"{rule.delegate.namespace or namespace}/{rule.delegate.name}"
            text = f"there is no VirtualService {shown}; correct the name, or add it"
            yield world.finding(Code.REFERENCED, item, f"spec.http[{index}].delegate", text)
    for kind, rules in (("http", spec.http), ("tls", spec.tls), ("tcp", spec.tcp)):
        yield from _unreachable(world, item, f"spec.{kind}", rules)
    if not spec.hosts or (spec.gateways and _MESH not in spec.gateways):
        return
    own = [hosts.complete(host, namespace, world.cluster_domain) for host in spec.hosts]
    served = {one for host in own for one in _below(known, host)}
    if not known.with_waypoint.intersection(served):
        yield world.finding(Code.NO_WAYPOINT, item, "spec.hosts", _without_waypoint(own))


def _below(known: _Known, host: str) -> list[str]:
    """Return the known hosts that a host means: itself, those below it, and wildcards that it is below."""
    return [one for one in known.ports if hosts.matches(host, one) or hosts.matches(one, host)]


def _without_waypoint(found: Sequence[str]) -> str:
    hint = f"label the service or its namespace {names.USE_WAYPOINT_LABEL}=NAME"
    return f"{', '.join(found)}: called without a waypoint, so it has no effect; {hint}"


def _destinations(item: VirtualService) -> Iterator[tuple[str, Destination]]:
    """Yield what the rules name, with the paths of the fields."""
    for index, rule in enumerate(item.spec.http):
        path = f"spec.http[{index}]"
        for place, target in enumerate(rule.route):
            yield f"{path}.route[{place}].destination", target.destination
        if rule.mirror is not None:
            yield f"{path}.mirror", rule.mirror
        for place, mirror in enumerate(rule.mirrors):
            yield f"{path}.mirrors[{place}].destination", mirror.destination
    connections: Sequence[tuple[str, Sequence[TLSRoute | TCPRoute]]] = (("tls", item.spec.tls), ("tcp", item.spec.tcp))
    for kind, rules in connections:
        for index, one in enumerate(rules):
            for place, to in enumerate(one.route):
                yield f"spec.{kind}[{index}].route[{place}].destination", to.destination


def _destination(
    world: World, known: _Known, item: VirtualService, path: str, destination: Destination
) -> Iterator[Finding]:
    host = hosts.complete(destination.host, item.metadata.namespace, world.cluster_domain)
    pattern = known.pattern(host)
    if pattern is None:
        text = f"{host} is no Service and no host of a ServiceEntry; correct the name, or add the namespace"
        yield world.finding(Code.REFERENCED, item, f"{path}.host", text)
        return
    port = destination.port.number if destination.port is not None else 0
    if port and port not in known.ports[pattern]:
        shown = ", ".join(map(str, sorted(known.ports[pattern])))
        yield world.finding(Code.REFERENCED, item, f"{path}.port.number", f"{host} has no port {port}, but {shown}")
    defined = {name for one in hosts.patterns(host) for name in known.subsets.get(one, ())}
    if destination.subset and destination.subset not in defined:
        text = f"no DestinationRule of {host} defines subset {destination.subset}; add it, or correct the name"
        yield world.finding(Code.REFERENCED, item, f"{path}.subset", text)


def _exists(world: World, namespace: str, name: str) -> bool:
    return any(one.metadata.name == name for one in world.all(VirtualService, namespace))


def _unreachable(
    world: World, item: VirtualService, path: str, rules: Sequence[HTTPRoute | TLSRoute | TCPRoute]
) -> Iterator[Finding]:
    """Rules after one that takes everything, and rules whose matches an earlier rule has, all of them."""
    earlier: set[str] = set()
    catches_all = -1
    for index, rule in enumerate(rules):
        shown = {repr(match.model_dump(exclude=_LABELS)) for match in rule.match}
        if catches_all >= 0:
            text = f"rule {catches_all} takes everything, so this one is never reached; move it up, or remove it"
            yield world.finding(Code.UNREACHABLE, item, f"{path}[{index}]", text)
        elif shown and shown <= earlier:
            text = "all its matches are in rules before, so this one is never reached; remove it, or change a match"
            yield world.finding(Code.UNREACHABLE, item, f"{path}[{index}].match", text)
        if not rule.match and not (isinstance(rule, HTTPRoute) and rule.delegate is not None):
            catches_all = index if catches_all < 0 else catches_all
        earlier |= shown
