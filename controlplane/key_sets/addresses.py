"""Where the control plane lets a user's URL lead it (server-side request forgery).

It fetches for users who may have few rights in the cluster, from a place in the network that they may not reach. So it
does not fetch from itself, from its node's neighbourhood, or from a cloud's metadata service, whatever name or redirect
leads there: each address is checked when it is connected to, not when it is looked up.
"""

import ipaddress
import socket
from collections.abc import Callable
from typing import Final

from aiohttp import abc, resolver

_METADATA: Final = frozenset({ipaddress.ip_address("fd00:ec2::254"), ipaddress.ip_address("168.63.129.16")})
"""Metadata services that are not at a link-local address: of EC2 over IPv6, of Azure's host."""


class Forbidden(OSError):
    """A host has an address that is not fetched from."""


def check(address: str) -> None:
    """Check an IP address.

    Raises:
        Forbidden: it is loopback, link-local, unspecified, multicast, or of a metadata service.
    """
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    own = found.is_loopback or found.is_link_local or found.is_unspecified or found.is_multicast
    if own or found in _METADATA:
        raise Forbidden(f"{address} is an address that keys are not fetched from (loopback, link-local or metadata)")


class CheckedResolver(abc.AbstractResolver):
    """Resolves names as the system does, and refuses forbidden addresses.

    Args:
        check: refuses an address by raising ``Forbidden``.
    """

    def __init__(self, check: Callable[[str], None] = check) -> None:
        self._check = check
        self._system = resolver.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[abc.ResolveResult]:
        """See ``AbstractResolver.resolve``. One forbidden address is enough: the name is not trusted any more."""
        found = await self._system.resolve(host, port, family)
        for one in found:
            self._check(one["host"])
        return found

    async def close(self) -> None:
        """Release what the resolver holds."""
        await self._system.close()
