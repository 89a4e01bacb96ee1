"""A pod's annotations as a plan. Pure.

Two families: Istio's for ambient mode, and its sidecar's ``traffic.sidecar.istio.io/*``, which Istio's ambient mode
ignores and Culvert honours with the sidecar's meaning. A value that cannot be read is a fault and counts as not
there, so that a typing error captures more, never less.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
from typing import Final, TypeVar

from meshapi import names
from nodeagent.capture.plan import Inbound, Network, Outbound, PodPlan

T = TypeVar("T")

_TRUE: Final = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE: Final = frozenset({"0", "f", "F", "FALSE", "false", "False"})
"""As Go reads them (``strconv.ParseBool``), because Istio does."""
_INTERFACE_MAX: Final = 15
"""Bytes of an interface's name (``IFNAMSIZ`` less the final zero)."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A value that cannot be read.

    Attributes:
        annotation: its name.
        value: as written.
        fix: what to write instead.
    """

    annotation: str
    value: str
    fix: str


@dataclass(frozen=True, slots=True)
class PlanResult:
    """A plan, and what of the annotations did not come into it.

    Attributes:
        plan: the plan.
        faults: values that cannot be read.
        overruled: annotations that would let something out of a pod that may reach only what the registry knows.
    """

    plan: PodPlan
    faults: tuple[Fault, ...] = ()
    overruled: tuple[str, ...] = ()


class _Unreadable(ValueError):
    """The text is the fix."""


def plan_pod(annotations: Mapping[str, str], *, dns: bool = False, registry_only: bool = False) -> PlanResult:
    """Plan the capture of a pod of the mesh.

    Args:
        annotations: the pod's.
        dns: whether DNS is captured where the pod does not say.
        registry_only: whether the pod may reach only what the registry knows. Its outgoing connections and its DNS are
            then captured whatever the annotations say.
    """
    faults: list[Fault] = []

    def read(name: str, parse: Callable[[str], T], default: T) -> T:
        value = annotations.get(name)
        if value is None:
            return default
        try:
            return parse(value.strip())
        except _Unreadable as error:
            faults.append(Fault(name, value, str(error)))
            return default

    bypass = read(names.BYPASS_INBOUND_ANNOTATION, _boolean, False)
    inbound = Inbound(
        only=read(names.INCLUDE_INBOUND_PORTS_ANNOTATION, _all_or(_ports), None),
        never=read(names.EXCLUDE_INBOUND_PORTS_ANNOTATION, _ports, ()),
    )
    outbound = Outbound(
        never_ports=read(names.EXCLUDE_OUTBOUND_PORTS_ANNOTATION, _ports, ()),
        never_ranges=read(names.EXCLUDE_OUTBOUND_RANGES_ANNOTATION, _ranges, ()),
        ports=read(names.INCLUDE_OUTBOUND_PORTS_ANNOTATION, _ports, ()),
        ranges=read(names.INCLUDE_OUTBOUND_RANGES_ANNOTATION, _all_or(_ranges), None),
    )
    plan = PodPlan(
        inbound=None if bypass else inbound,
        outbound=outbound,
        dns=read(names.DNS_CAPTURE_ANNOTATION, _boolean, dns),
        virtual_interfaces=read(names.REROUTE_INTERFACES_ANNOTATION, _interfaces, ()),
        excluded_interfaces=read(names.EXCLUDE_INTERFACES_ANNOTATION, _interfaces, ()),
        # Its only value. Whatever else is written there, the pod's owner has asked for less to be direct.
        tunnel_always=read(names.TUNNEL_ANNOTATION, _always, names.TUNNEL_ANNOTATION in annotations),
    )
    if registry_only:
        return _held(plan, tuple(faults), annotations)
    return PlanResult(plan, tuple(faults))


_LETS_OUT: Final = (
    names.DNS_CAPTURE_ANNOTATION,
    names.REROUTE_INTERFACES_ANNOTATION,
    names.INCLUDE_OUTBOUND_PORTS_ANNOTATION,
    names.EXCLUDE_OUTBOUND_PORTS_ANNOTATION,
    names.INCLUDE_OUTBOUND_RANGES_ANNOTATION,
    names.EXCLUDE_OUTBOUND_RANGES_ANNOTATION,
    names.EXCLUDE_INTERFACES_ANNOTATION,
)


def _held(plan: PodPlan, faults: tuple[Fault, ...], annotations: Mapping[str, str]) -> PlanResult:
    """Return the plan without what would let something out."""
    held = PodPlan(inbound=plan.inbound, dns=True, tunnel_always=True, registry_only=True)
    changed = replace(plan, tunnel_always=True, registry_only=True) != held
    return PlanResult(held, faults, tuple(name for name in _LETS_OUT if name in annotations) if changed else ())


def _boolean(text: str) -> bool:
    if text in _TRUE | _FALSE:
        return text in _TRUE
    raise _Unreadable("write true or false")


def _always(text: str) -> bool:
    if text == names.TUNNEL_ALWAYS:
        return True
    raise _Unreadable(f"write {names.TUNNEL_ALWAYS}, or leave the annotation out")


def _all_or(parse: Callable[[str], T]) -> Callable[[str], T | None]:
    return lambda text: None if text == "*" else parse(text)


def _ports(text: str) -> tuple[int, ...]:
    found = set()
    for item in _items(text):
        if not item.isascii() or not item.isdecimal() or not 0 < int(item) < 1 << 16:
            raise _Unreadable(f'"{item}" is not a port; write numbers from 1 to 65535 with commas between them')
        found.add(int(item))
    return tuple(sorted(found))


def _ranges(text: str) -> tuple[Network, ...]:
    found: tuple[list[IPv4Network], list[IPv6Network]] = ([], [])
    for item in _items(text):
        try:
            network = ip_network(item, strict=False)
        except ValueError:
            raise _Unreadable(f'"{item}" is not an address range; write as 10.0.0.0/8 or fd00::/8') from None
        if network.prefixlen == 0:
            raise _Unreadable(f'"{item}" is every address; write * in an include list, or leave the annotation out')
        if isinstance(network, IPv4Network):
            found[0].append(network)
        else:
            found[1].append(network)
    # Overlapping ones made one: nftables refuses them in one set.
    return (*collapse_addresses(found[0]), *collapse_addresses(found[1]))


def _interfaces(text: str) -> tuple[str, ...]:
    found = set()
    for item in _items(text):
        plain = item.isascii() and all(letter.isalnum() or letter in "._-" for letter in item)
        if not plain or len(item) > _INTERFACE_MAX:
            raise _Unreadable(f'"{item}" is not the name of an interface; write names with commas between them')
        found.add(item)
    return tuple(sorted(found))


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]
