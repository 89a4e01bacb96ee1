"""What the kernel has seen of a TCP socket. Data only."""

from dataclasses import dataclass
from enum import IntEnum

Endpoint = tuple[str, int]
"""Address and port."""


class What(IntEnum):
    """A moment in the life of a socket. The numbers are those of ``program``."""

    CONNECT = 1
    ACCEPT = 2
    ESTABLISHED = 3
    FIRST_BYTE = 4
    """The first byte that the socket's process reads."""
    CLOSED = 5
    RETRANSMIT = 6
    RESET_SENT = 7
    RESET_RECEIVED = 8
    DROP = 9
    """A packet was thrown away; ``local`` is its source, ``remote`` its destination."""


TROUBLE = frozenset({What.RETRANSMIT, What.RESET_SENT, What.RESET_RECEIVED, What.DROP})


@dataclass(frozen=True, slots=True)
class KernelEvent:
    """One moment.

    Attributes:
        at_s: since the epoch, UTC.
        process: name of the process that ran; for packets that arrive it may be any.
        pid: its number.
        local: the socket's own end.
        remote: its peer's.
        detail: of a drop, its reason.
    """

    at_s: float
    what: What
    process: str
    pid: int
    local: Endpoint
    remote: Endpoint
    detail: str = ""
