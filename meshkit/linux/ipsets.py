"""IP sets of the namespace that the calling thread is in (see ``netns.run``)."""

import socket
from collections.abc import Iterator, Set
from contextlib import contextmanager
from typing import Any, Final

from pyroute2 import IPSet
from pyroute2.netlink.exceptions import NetlinkError

_FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
_ABSENT: Final = 2
_IN_USE: Final = 4100
"""``IPSET_ERR_BUSY`` (``linux/netfilter/ipset/ip_set.h``)."""


def fill(name: str, addresses: Set[str], version: int) -> None:
    """Make a set hold exactly these addresses; it is made where there is none.

    Raises:
        OSError: some may be changed and others not.
    """
    with _opened() as ipset:
        before = _members(ipset, name)
        if before is None:
            ipset.create(name, "hash:ip", family=_FAMILIES[version], exclusive=False)
        for address in (before or frozenset()) - addresses:
            ipset.delete(name, address, family=_FAMILIES[version])
        for address in addresses - (before or frozenset()):
            ipset.add(name, address, family=_FAMILIES[version], exclusive=False)


def members(name: str) -> frozenset[str] | None:
    """Return what is in a set, or ``None`` where there is none."""
    with _opened() as ipset:
        return _members(ipset, name)


def destroy(name: str) -> None:
    """Remove a set, unless a rule uses it; none is no error."""
    with _opened() as ipset:
        try:
            if _members(ipset, name) is not None:
                ipset.destroy(name)
        except NetlinkError as error:
            if error.code != _IN_USE:
                raise


def _members(ipset: Any, name: str) -> frozenset[str] | None:
    try:
        messages = list(ipset.list(name))
    except NetlinkError as error:
        if error.code == _ABSENT:
            return None
        raise
    found = set()
    for message in messages:
        data = message.get_attr("IPSET_ATTR_ADT")
        for entry in data.get_attrs("IPSET_ATTR_DATA") if data else ():
            address = entry.get_attr("IPSET_ATTR_IP_FROM")
            for kind in ("IPSET_ATTR_IPADDR_IPV4", "IPSET_ATTR_IPADDR_IPV6"):
                if address.get_attr(kind):
                    found.add(str(address.get_attr(kind)))
    return frozenset(found)


@contextmanager
def _opened() -> Iterator[Any]:
    try:
        with IPSet() as ipset:
            yield ipset
    except NetlinkError as error:
        raise OSError(error.code, f"IP sets: {error}") from error
