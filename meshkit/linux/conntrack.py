"""The kernel's memory of connections, of the namespace that the calling thread is in (see ``netns.run``)."""

import os
from contextlib import suppress
from typing import Any, Final

from pyroute2 import NetlinkError
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple, NFCTSocket

_TCP: Final = 6
_REDIRECTED: Final = 1 << 5  # IPS_DST_NAT
_OPENING: Final = (1, 2)  # TCP_CONNTRACK_SYN_SENT, TCP_CONNTRACK_SYN_RECV
_VERSIONS: Final = {2: "V4", 10: "V6"}


def forget_opening(but_marked: int) -> None:
    """Forget the TCP connections that are being opened and are not redirected.

    The kernel evaluates rules of address translation for a connection's first packet only, and a packet that is sent
    again is not the first. Once forgotten, it is.

    Args:
        but_marked: connections with this bit in their mark are left.

    Raises:
        OSError: the table cannot be read.
    """
    try:
        for family in _VERSIONS:
            _forget_opening(family, but_marked)
    except NetlinkError as error:
        raise OSError(error.code, f"connection tracking: {os.strerror(error.code)}") from error


def _forget_opening(family: int, but_marked: int) -> None:
    with NFCTSocket(nfgen_family=family) as conntrack:
        # Kernels before 5.15 ignore the filter and list everything.
        for message in tuple(conntrack.dump(status=0, status_mask=_REDIRECTED)):
            if _is_opening(message) and not message.get_attr("CTA_MARK", 0) & but_marked:
                with suppress(NetlinkError):  # it has ended meanwhile
                    conntrack.entry("del", tuple_orig=_name(message, family))


def _is_opening(message: Any) -> bool:
    state = message.get_nested("CTA_PROTOINFO", "CTA_PROTOINFO_TCP", "CTA_PROTOINFO_TCP_STATE")
    return state in _OPENING and not message.get_attr("CTA_STATUS") & _REDIRECTED


def _name(message: Any, family: int) -> NFCTAttrTuple:
    original = message.get_attr("CTA_TUPLE_ORIG")
    ports, addresses = original.get_attr("CTA_TUPLE_PROTO"), original.get_attr("CTA_TUPLE_IP")
    version = _VERSIONS[family]
    return NFCTAttrTuple(
        family=family,
        saddr=addresses.get_attr(f"CTA_IP_{version}_SRC"),
        daddr=addresses.get_attr(f"CTA_IP_{version}_DST"),
        proto=_TCP,
        sport=ports.get_attr("CTA_PROTO_SRC_PORT"),
        dport=ports.get_attr("CTA_PROTO_DST_PORT"),
    )
