"""Who has which of the addresses that hosts are given. Pure.

A host gets one address of each family (Istio: "ServiceEntry address auto-allocation", same ranges). Where the search
for a free one begins is a hash of namespace, entry and host: an entry that is made again mostly gets the same.
"""

import hashlib
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from meshkit.kube import Key

RANGES: Final = (ipaddress.ip_network("240.240.0.0/16"), ipaddress.ip_network("2001:2::/48"))
"""Reserved for future use (RFC 1112) and for benchmarks (RFC 5180): no real host has such an address."""
_SPREAD: Final = 1 << 32
"""How many addresses of a family are used at most: no more is needed, and they stay short."""

Given = tuple[str, str]
"""An address and its host."""


@dataclass(slots=True)
class Pool:
    """Addresses by owner. Two owners never have the same."""

    _owners: dict[str, tuple[Key, str]] = field(default_factory=dict)
    _by_key: dict[Key, list[Given]] = field(default_factory=dict)
    _used: dict[int, set[int]] = field(default_factory=lambda: {4: set(), 6: set()})
    """By family: places in its range that are taken. A search in a range that is nearly full looks at many."""

    def hold(self, key: Key, given: Iterable[Given], own: Iterable[str] = ()) -> None:
        """Note what an entry has now: ``given`` to its hosts, and its ``own`` addresses, which no other entry may get.

        What another entry has already is left out: the earlier one keeps it.
        """
        self.release(key)
        for address, host in [*((item, "") for item in own), *given]:
            text = _normal(address)
            if text is not None and self._owners.setdefault(text, (key, host)) == (key, host):
                self._by_key.setdefault(key, []).append((text, host))
                self._mark(text, taken=True)

    def release(self, key: Key) -> None:
        """Free what an entry has."""
        for held, _ in self._by_key.pop(key, ()):
            del self._owners[held]
            self._mark(held, taken=False)

    def held(self, key: Key) -> list[Given]:
        """Return the addresses that an entry's hosts were given."""
        return [(address, host) for address, host in self._by_key.get(key, ()) if host]

    def assign(self, key: Key, hosts: Sequence[str]) -> list[Given]:
        """Return addresses for exactly these hosts and note them: what they have stays, what is missing is chosen.

        A family that is used up is left out.
        """
        have: dict[str, dict[int, str]] = {host: {} for host in hosts}
        for address, host in self.held(key):
            if host in have:
                have[host].setdefault(ipaddress.ip_address(address).version, address)
        own = [address for address, host in self._by_key.get(key, ()) if not host]
        kept = [(address, host) for host, found in have.items() for address in found.values()]
        self.hold(key, kept, own)
        result = [
            (chosen, host)
            for host, found in have.items()
            for network in RANGES
            if (chosen := found.get(network.version) or self._free(network, key, host)) is not None
        ]
        self.hold(key, result, own)
        return result

    def _free(self, network: ipaddress.IPv4Network | ipaddress.IPv6Network, key: Key, host: str) -> str | None:
        usable = min(network.num_addresses, _SPREAD) - 2  # neither the first nor the last of an IPv4 network
        digest = hashlib.blake2b("/".join((*key, host)).encode(), digest_size=8).digest()
        begin = int.from_bytes(digest, "big")
        used = self._used[network.version]
        if len(used) >= usable:
            return None
        place = next(place for step in range(usable) if (place := 1 + (begin + step) % usable) not in used)
        address = str(network[place])
        self._owners[address] = (key, host)
        self._by_key.setdefault(key, []).append((address, host))
        used.add(place)
        return address

    def _mark(self, text: str, *, taken: bool) -> None:
        address = ipaddress.ip_address(text)
        network = RANGES[0] if address.version == 4 else RANGES[1]
        place = int(address) - int(network.network_address)
        # Addresses outside of the pool, or at its ends, are never allocated.
        if 0 < place <= min(network.num_addresses, _SPREAD) - 2:
            (self._used[address.version].add if taken else self._used[address.version].discard)(place)


def by_host(given: Iterable[Given]) -> Mapping[str, frozenset[str]]:
    """Return the addresses of each host, to compare them whatever their order and spelling."""
    found: dict[str, set[str]] = {}
    for address, host in given:
        found.setdefault(host, set()).add(_normal(address) or address)
    return {host: frozenset(addresses) for host, addresses in found.items()}


def _normal(address: str) -> str | None:
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return None  # a range, or nothing that could meet one of ours
