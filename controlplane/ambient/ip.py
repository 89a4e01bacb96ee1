"""IP addresses as text and as bytes. IPv4, which is nearly all of them, in a tenth of the library's time."""

import ipaddress
import socket
from typing import Final

_IPV4_BYTES: Final = 4


def packed(address: str) -> bytes:
    """Return an address in network byte order.

    Raises:
        ValueError: it is none.
    """
    if ":" not in address:
        try:
            return socket.inet_pton(socket.AF_INET, address)
        except OSError:
            pass  # the library says what is wrong with it
    return ipaddress.ip_address(address).packed


def text(address: bytes) -> str:
    """Return an address in its canonical form (RFC 5952)."""
    return socket.inet_ntoa(address) if len(address) == _IPV4_BYTES else str(ipaddress.ip_address(address))
