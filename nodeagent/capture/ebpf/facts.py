"""Reads what the rules of a pod depend on, in its namespace. Called inside the namespace."""

from collections.abc import Iterable
from ipaddress import ip_address

from meshkit.linux import links
from meshkit.linux.links import Address
from nodeagent.capture.ebpf.rules import Facts

_LOOPBACK = 1
"""The index of every namespace's loopback link."""


def read(announced: Iterable[str]) -> Facts:
    """Read the facts of the namespace.

    Args:
        announced: the pod's addresses as Kubernetes knows them; those that are here come first.
    """
    held = links.addresses()
    local = tuple(one.interface.ip for one in held)
    usable = [one.interface.ip for one in held if one.link != _LOOPBACK and not one.interface.ip.is_link_local]
    first: list[Address] = [ip_address(text) for text in announced]
    ordered = [address for address in first if address in local] + [ip for ip in usable if ip not in first]
    return Facts(
        addresses=tuple(ordered),
        local=local,
        links={link.name: link.index for link in links.links()},
        routes=links.routes(),
    )
