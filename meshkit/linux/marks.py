"""Routing of marked packets in the namespace that the calling thread is in (see ``netns.run``)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyroute2 import NetlinkError

from meshkit.linux.netlink import opened

_WHAT = "routing of marks"
_EXISTS = 17
_ABSENT = (2, 3, 97)
"""ENOENT, ESRCH, EAFNOSUPPORT: it is not there, which is what a removal wants."""
_V4, _V6 = 2, 10
_LOCAL, _SCOPE_HOST = 2, 254
_LOOPBACK = 1
"""The index of a namespace's loopback link is always 1 (``LOOPBACK_IFINDEX``)."""


@dataclass(frozen=True, slots=True)
class LocalDelivery:
    """Deliver packets with a mark to this namespace, whatever their destination.

    Attributes:
        mark: the mark's value.
        mask: the bits of it that count.
        table: number of a route table of our own.
        priority: of the rule; the smallest number is evaluated first.
    """

    mark: int
    mask: int
    table: int
    priority: int


def has_ipv6() -> bool:
    """Say whether the namespace has IPv6 on its loopback link."""
    switch = Path("/proc/sys/net/ipv6/conf/lo/disable_ipv6")
    return switch.exists() and switch.read_text().strip() == "0"


def add(delivery: LocalDelivery) -> None:
    """Put rule and route in place, IPv6 too where the namespace has it; what is there already stays."""
    with opened(_WHAT) as netlink:
        for family, everything in _families():
            route = {"dst": everything, "oif": _LOOPBACK, "table": delivery.table, "type": _LOCAL}
            netlink.route("replace", family=family, scope=_SCOPE_HOST, **route)
            try:
                netlink.rule("add", family=family, **_rule(delivery))
            except NetlinkError as error:
                if error.code != _EXISTS:
                    raise


def missing(delivery: LocalDelivery) -> tuple[str, ...]:
    """Name what ``add`` put in place and is not there any more."""
    found: list[str] = []
    with opened(_WHAT) as netlink:
        for family, _ in _families():
            label = "IPv4" if family == _V4 else "IPv6"
            if not any(_is_rule(message, delivery) for message in netlink.get_rules(family=family)):
                found.append(f"{label} rule for the mark")
            if not any(
                message["type"] == _LOCAL and message["dst_len"] == 0
                for message in netlink.get_routes(family=family, table=delivery.table)
            ):
                found.append(f"{label} route")
    return tuple(found)


def remove(delivery: LocalDelivery) -> None:
    """Take rule and route away; what is not there is no error."""
    with opened(_WHAT) as netlink:
        for family in (_V4, _V6):
            for verb in ("rule", "routes"):
                try:
                    if verb == "rule":
                        netlink.rule("del", family=family, **_rule(delivery))
                    else:
                        netlink.flush_routes(family=family, table=delivery.table)
                except NetlinkError as error:
                    if error.code not in _ABSENT:
                        raise


def _is_rule(message: Any, delivery: LocalDelivery) -> bool:
    wanted = (delivery.mark, delivery.mask, delivery.table, delivery.priority)
    keys = ("FRA_FWMARK", "FRA_FWMASK", "FRA_TABLE", "FRA_PRIORITY")
    return wanted == tuple(message.get_attr(key) for key in keys)


def _rule(delivery: LocalDelivery) -> dict[str, int]:
    return {
        "fwmark": delivery.mark,
        "fwmask": delivery.mask,
        "table": delivery.table,
        "priority": delivery.priority,
    }


def _families() -> list[tuple[int, str]]:
    everything = [(_V4, "0.0.0.0/0")]
    return [*everything, (_V6, "::/0")] if has_ipv6() else everything
