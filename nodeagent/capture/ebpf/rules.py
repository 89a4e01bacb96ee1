"""A plan in the terms of the capture's BPF programs (``bpf/include/capture.h``). Pure.

The same meaning as ``nodeagent.capture.nftables.rules``, at another place: the programs see the address that an
application names, not a packet. Two things follow. What leaves by an excluded link is known by the routes, so that its
ranges depend on the routes of the namespace. And what a virtual machine inside of the pod sends is never seen, so that
a plan with virtual interfaces is not for this backend (``is_supported``).

The programs look up the longest range that has an address; each range therefore has the flags of those around it.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Final

from meshapi import names
from meshkit.linux.links import Address, Route
from nodeagent.capture.plan import Mode, Network, Outbound, PodPlan

MAX_EXCLUDED_LINKS: Final = 8
"""``EXCLUDED_LINKS`` of the programs; a plan that names more is refused."""
_LOOPBACKS: Final = ("127.0.0.0/8", "::1/128")
_PROBES: Final = (names.PROBE_SOURCE_V4, names.PROBE_SOURCE_V6)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a plan's rules depend on in the namespace.

    Attributes:
        addresses: the pod's own; the first of each version is where its tunnel is reached.
        local: all addresses of the namespace, loopback left out.
        links: indices of links, by name.
        routes: of the main table.
    """

    addresses: tuple[Address, ...]
    local: tuple[Address, ...]
    links: Mapping[str, int]
    routes: tuple[Route, ...] = ()


@dataclass(frozen=True, slots=True)
class PodRules:
    """What the programs are told of one pod; names are those of the enums of ``capture.h``.

    Attributes:
        flags: of the pod.
        addresses: where the tunnel is reached.
        excluded_links: indices of links.
        ports: each with its list.
        ranges: each with its flags.
    """

    flags: tuple[str, ...]
    addresses: tuple[Address, ...]
    excluded_links: tuple[int, ...]
    ports: tuple[tuple[int, str], ...]
    ranges: tuple[tuple[Network, tuple[str, ...]], ...]


def is_supported(plan: PodPlan) -> bool:
    """Return whether the programs can do what a plan wants."""
    return not plan.virtual_interfaces and len(plan.excluded_interfaces) <= MAX_EXCLUDED_LINKS


def pod_rules(plan: PodPlan, facts: Facts) -> PodRules:
    """Return the rules of a plan; they take nothing new where it drains."""
    addresses = tuple(_first_of_each_version(facts.addresses))
    if plan.mode is not Mode.CAPTURE:
        return PodRules((), addresses, (), (), ())
    indices = (facts.links[name] for name in plan.excluded_interfaces if name in facts.links)
    excluded_links = tuple(sorted(indices))
    return PodRules(
        flags=tuple(_flags(plan)),
        addresses=addresses,
        excluded_links=excluded_links,
        ports=tuple(_ports(plan)),
        ranges=tuple(_ranges(plan.outbound, facts, excluded_links)),
    )


def _flags(plan: PodPlan) -> Iterator[str]:
    yield "capture"
    if plan.dns:
        yield "dns"
    if plan.inbound is not None:
        yield "inbound"
        if plan.inbound.only is not None:
            yield "inbound_listed"
    if plan.outbound.ranges is not None:
        yield "outbound_listed"
    if plan.tunnel_always:
        yield "tunnel_always"


def _ports(plan: PodPlan) -> Iterator[tuple[int, str]]:
    yield from ((port, "outbound_never") for port in plan.outbound.never_ports)
    yield from ((port, "outbound_only") for port in plan.outbound.ports)
    if plan.inbound is not None:
        yield from ((port, "inbound_never") for port in plan.inbound.never)
        yield from ((port, "inbound_only") for port in plan.inbound.only or ())


def _ranges(
    outbound: Outbound, facts: Facts, excluded_links: tuple[int, ...]
) -> Iterator[tuple[Network, tuple[str, ...]]]:
    flagged: list[tuple[Network, str]] = [(ip_network(text), "local") for text in _LOOPBACKS]
    flagged += [(ip_network(address), "local") for address in facts.local]
    flagged += [(ip_network(text), "probes") for text in _PROBES]
    flagged += [(network, "excluded") for network in outbound.never_ranges]
    flagged += [(network, "only") for network in outbound.ranges or ()]
    routes = facts.routes if excluded_links else ()
    known = {network for network, _ in flagged} | {route.destination for route in routes}
    for network in sorted(known, key=lambda one: (one.version, one)):
        flags = {flag for around, flag in flagged if _is_inside(network, around)}
        if _leaves_by(network, routes) in excluded_links:
            flags.add("excluded")
        yield network, tuple(sorted(flags))


def _leaves_by(network: Network, routes: Iterable[Route]) -> int | None:
    """Return the link of the longest route that has a range."""
    fitting = [route for route in routes if _is_inside(network, route.destination)]
    return max(fitting, key=lambda route: route.destination.prefixlen).link if fitting else None


def _is_inside(network: Network, around: Network) -> bool:
    if network.version == 4 and around.version == 4:
        return network.subnet_of(around)
    return network.version == 6 and around.version == 6 and network.subnet_of(around)


def _first_of_each_version(addresses: Iterable[Address]) -> Iterator[Address]:
    seen: set[int] = set()
    for address in addresses:
        if address.version not in seen:
            seen.add(address.version)
            yield address
