"""TCP sockets of the namespace that the calling thread is in (see ``netns.run``)."""

from collections.abc import Set

from pyroute2 import DiagSocket

_V4, _V6 = 2, 10
_LISTEN = 10
_ALL_BUT_GONE = 0xFFF & ~((1 << 6) | (1 << 7))
"""Every state but TIME_WAIT (6) and CLOSE (7)."""


def connections_on(ports: Set[int]) -> int:
    """Return the number of TCP connections, listeners left out, whose local port is one of ``ports``."""
    count = 0
    with DiagSocket() as diag:
        diag.bind()
        for family in (_V4, _V6):
            for message in diag.get_sock_stats(family=family, states=_ALL_BUT_GONE):
                count += message["idiag_state"] != _LISTEN and message["idiag_sport"] in ports
    return count
