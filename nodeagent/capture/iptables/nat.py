"""Targets that rewrite addresses, as the kernel takes them (``linux/netfilter/nf_nat.h``).

python-iptables would let libxtables make them. But since iptables 1.8.8 one library holds those of both versions of
IP, and registers those of the version that is used first only: in one process, the other version's are never found.
"""

import ctypes
import socket
from dataclasses import dataclass
from typing import Any, Final

from nodeagent.capture.iptables.rules import Extension

_MAP_ADDRESSES: Final = 1
_PORTS_GIVEN: Final = 2

TARGETS: Final = frozenset({"REDIRECT", "SNAT"})


class _Range4(ctypes.Structure):
    """``struct nf_nat_ipv4_multi_range_compat`` with its one range."""

    _fields_ = (
        ("ranges", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("first", ctypes.c_uint8 * 4),
        ("last", ctypes.c_uint8 * 4),
        ("first_port", ctypes.c_uint8 * 2),
        ("last_port", ctypes.c_uint8 * 2),
    )


class _Range6(ctypes.Structure):
    """``struct nf_nat_range``."""

    _fields_ = (
        ("flags", ctypes.c_uint32),
        ("first", ctypes.c_uint8 * 16),
        ("last", ctypes.c_uint8 * 16),
        ("first_port", ctypes.c_uint8 * 2),
        ("last_port", ctypes.c_uint8 * 2),
    )


def _entry(content: type[ctypes.Structure]) -> type[Any]:
    class Entry(ctypes.Structure):
        """``struct xt_entry_target``, which ends on a multiple of eight bytes."""

        _fields_ = (
            ("size", ctypes.c_uint16),
            ("name", ctypes.c_char * 29),
            ("revision", ctypes.c_uint8),
            ("range", content),
            ("padding", ctypes.c_uint8 * (-ctypes.sizeof(content) % 8)),
        )

    return Entry


_ENTRIES: Final = {4: _entry(_Range4), 6: _entry(_Range6)}


@dataclass(slots=True)
class NatTarget:
    """In the form that a rule of python-iptables wants its target."""

    target: Any
    size: int
    rule: Any = None


def nat_target(version: int, extension: Extension) -> NatTarget:
    """Return a target of ``TARGETS`` with one address or one port."""
    made = _ENTRIES[version]()
    made.size = ctypes.sizeof(made)
    made.name = extension.name.encode()
    # The revision whose range is the one above; with IPv6 it is SNAT's second.
    made.revision = 1 if version == 6 and extension.name == "SNAT" else 0
    if version == 4:
        made.range.ranges = 1
    ((option, (value,), _),) = extension.options
    if option == "to-ports":
        made.range.flags = _PORTS_GIVEN
        made.range.first_port[:] = made.range.last_port[:] = int(value).to_bytes(2, "big")
    else:
        made.range.flags = _MAP_ADDRESSES
        address = socket.inet_pton(socket.AF_INET if version == 4 else socket.AF_INET6, value)
        made.range.first[:] = made.range.last[:] = address
    return NatTarget(made, made.size)
