"""Links, addresses and routes of the namespace that the calling thread is in (see ``netns.run``).

pyroute2's verbs and dictionaries stay in this file. All functions fail with ``OSError``; none keeps a socket open.
"""

import os
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_interface,
    ip_network,
)
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from meshkit.linux.netlink import opened

Address = IPv4Address | IPv6Address
Interface = IPv4Interface | IPv6Interface
Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface."""

    index: int
    name: str
    mac: str
    up: bool


@dataclass(frozen=True, slots=True)
class Route:
    """A unicast route of the main table; ``gateway`` is None for what is on the link."""

    destination: Network
    gateway: Address | None
    link: int | None


@dataclass(frozen=True, slots=True)
class Held:
    """An address that a link has."""

    link: int
    interface: Interface


def links() -> tuple[Link, ...]:
    """Return all links."""
    with opened() as netlink:
        return tuple(
            Link(
                index=message["index"],
                name=message.get_attr("IFLA_IFNAME"),
                mac=message.get_attr("IFLA_ADDRESS") or "",
                up=bool(message["flags"] & 1),
            )
            for message in netlink.get_links()
        )


def addresses() -> tuple[Held, ...]:
    """Return the addresses of all links, in the kernel's order."""
    with opened() as netlink:
        return tuple(
            Held(
                message["index"],
                # IFA_ADDRESS is the other end where there is one.
                ip_interface(
                    f"{message.get_attr('IFA_LOCAL') or message.get_attr('IFA_ADDRESS')}/{message['prefixlen']}"
                ),
            )
            for message in netlink.get_addr()
        )


def other_ends(namespace: int) -> frozenset[int]:
    """Return the other ends of the links here (veth) in a namespace, given by a descriptor: their indices there."""
    with opened() as netlink:
        pairs = [message for message in netlink.get_links() if _kind(message) == "veth"]
        number = netlink.get_netnsid(fd=namespace)["nsid"]
        if number is None or number < 0:
            return frozenset()
        return frozenset(one.get_attr("IFLA_LINK") for one in pairs if one.get_attr("IFLA_LINK_NETNSID") == number)


def exists(name: str) -> bool:
    """Say whether a link has this name."""
    with opened() as netlink:
        return bool(netlink.link_lookup(ifname=name))


def add_bridge(name: str) -> None:
    """Make a bridge, up."""
    with opened() as netlink:
        netlink.link("add", ifname=name, kind="bridge")
        netlink.link("set", index=_index(netlink, name), state="up")


def add_veth(name: str, *, master: str, peer: str, peer_netns: Path) -> None:
    """Make a pair: ``name`` here, up, as a port of the bridge ``master``; ``peer``, down, inside ``peer_netns``."""
    descriptor = os.open(peer_netns, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with opened() as netlink:
            netlink.link("add", ifname=name, kind="veth", peer={"ifname": peer, "net_ns_fd": descriptor})
            netlink.link("set", index=_index(netlink, name), master=_index(netlink, master), state="up")
    finally:
        os.close(descriptor)


def set_up(name: str) -> None:
    """Bring a link up."""
    with opened() as netlink:
        netlink.link("set", index=_index(netlink, name), state="up")


def delete(name: str) -> bool:
    """Delete a link and say whether it was there."""
    with opened() as netlink:
        found = netlink.link_lookup(ifname=name)
        if found:
            netlink.link("del", index=found[0])
        return bool(found)


def add_address(name: str, address: Interface) -> None:
    """Give a link an address; IPv6 without duplicate detection, so that it can be used at once."""
    nodad = 0x02
    with opened() as netlink:
        options = {"flags": nodad} if address.version == 6 else {}
        netlink.addr(
            "add", index=_index(netlink, name), address=str(address.ip), prefixlen=address.network.prefixlen, **options
        )


def add_route(destination: Network, gateway: Address) -> None:
    """Route ``destination`` over ``gateway``."""
    with opened() as netlink:
        netlink.route("add", dst=str(destination), gateway=str(gateway))


def routes() -> tuple[Route, ...]:
    """Return the unicast routes of the main table, IPv4 and IPv6."""
    main_table, unicast = 254, 1
    found = []
    with opened() as netlink:
        for family, default in ((2, str(IPv4Address(0))), (10, "::")):
            for message in netlink.get_routes(family=family, table=main_table):
                if message["type"] != unicast:
                    continue
                destination = f"{message.get_attr('RTA_DST') or default}/{message['dst_len']}"
                gateway = message.get_attr("RTA_GATEWAY")
                network: Network = ip_network(destination)
                via = _address(gateway, family) if gateway else None
                found.append(Route(network, via, message.get_attr("RTA_OIF")))
    return tuple(found)


def _kind(message: Any) -> str:
    info = message.get_attr("IFLA_LINKINFO")
    return str(info.get_attr("IFLA_INFO_KIND")) if info else ""


def _address(text: str, family: int) -> Address:
    return IPv4Address(text) if family == 2 else IPv6Address(text)


def _index(netlink: IPRoute, name: str) -> int:
    found = netlink.link_lookup(ifname=name)
    if not found:
        raise FileNotFoundError(f"no link named {name}")
    return int(found[0])
