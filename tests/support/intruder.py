"""A process in a pod that wants to get something out, by every kind of socket that a container may open by default.

It runs as ``python -m tests.support.intruder CGROUP HERE4 THERE4 HERE6 THERE6 MAC`` in a cgroup of its own, which is
what tells a pod's processes from a tunnel's. Each attempt sends bytes that a sniffer recognizes (``trace``). Nothing of
the product is imported: an attacker has none of it.
"""

import contextlib
import socket
import struct
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TUNNEL_MARK, PASSED_MARK = 0x539, 0x1000
SO_MARK, ALL = 36, 0x0003
IPV4, IPV6, ARP, VLAN = 0x0800, 0x86DD, 0x0806, 0x8100
ATTEMPTS: dict[str, Callable[["Place"], None]] = {}


@dataclass(frozen=True)
class Place:
    """Addresses of both ends, and the hardware address of the other one."""

    here: str
    there: str
    here6: str
    there6: str
    mac: bytes


def trace(name: str) -> bytes:
    """Return four bytes that are in every packet of an attempt."""
    return struct.pack("!I", zlib.crc32(name.encode()))


def attempt(make: Callable[[Place], None]) -> Callable[[Place], None]:
    ATTEMPTS[make.__name__] = make
    return make


def main() -> None:
    group, here, there, here6, there6, mac = sys.argv[1:]
    (Path(group) / "cgroup.procs").write_text("0")
    place = Place(here, there, here6, there6, bytes.fromhex(mac))
    for make in (*ATTEMPTS.values(), a_frame_that_bypasses_the_queue):
        with contextlib.suppress(OSError):  # a packet that is dropped may be an error of the call
            make(place)


def _datagram(to: tuple[str, int], name: str, mark: int = 0) -> None:
    family = socket.AF_INET6 if ":" in to[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        if mark:
            sock.setsockopt(socket.SOL_SOCKET, SO_MARK, mark)
        sock.sendto(trace(name), to)


@attempt
def udp(place: Place) -> None:
    _datagram((place.there, 9999), "udp")


@attempt
def udp_v6(place: Place) -> None:
    _datagram((place.there6, 9999), "udp_v6")


@attempt
def udp_to_an_excluded_port(place: Place) -> None:
    _datagram((place.there, 3306), "udp_to_an_excluded_port")


@attempt
def udp_with_the_tunnels_mark(place: Place) -> None:
    _datagram((place.there, 9999), "udp_with_the_tunnels_mark", TUNNEL_MARK)


@attempt
def udp_with_the_mark_of_what_passed(place: Place) -> None:
    _datagram((place.there, 9999), "udp_with_the_mark_of_what_passed", PASSED_MARK)


@attempt
def dns_with_the_tunnels_mark(place: Place) -> None:
    _datagram((place.there, 53), "dns_with_the_tunnels_mark", TUNNEL_MARK)


@attempt
def dns_with_the_tunnels_mark_v6(place: Place) -> None:
    _datagram((place.there6, 53), "dns_with_the_tunnels_mark_v6", TUNNEL_MARK)


def _tcp(place: Place, name: str, flags: int, payload: bytes, destination: int, source: int = 40001) -> bytes:
    """Return a segment whose sequence number is the trace."""
    offset = 5 << 12
    head = struct.pack("!HH4sIHHHH", source, destination, trace(name), 0, offset | flags, 1024, 0, 0)
    pseudo = socket.inet_aton(place.here) + socket.inet_aton(place.there) + struct.pack("!BBH", 0, 6, 20 + len(payload))
    total = checksum(pseudo + head + payload)
    return head[:16] + struct.pack("!H", total) + head[18:] + payload


def checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def _raw(place: Place, protocol: int, payload: bytes, mark: int = 0) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol) as sock:
        if mark:
            sock.setsockopt(socket.SOL_SOCKET, SO_MARK, mark)
        sock.sendto(payload, (place.there, 0))


@attempt
def a_segment_that_opens(place: Place) -> None:
    _raw(place, 6, _tcp(place, "a_segment_that_opens", 0x02, b"", 8080), TUNNEL_MARK)


@attempt
def a_segment_of_no_connection(place: Place) -> None:
    _raw(place, 6, _tcp(place, "a_segment_of_no_connection", 0x10, b"stolen", 8080), TUNNEL_MARK)


@attempt
def a_segment_without_data(place: Place) -> None:
    _raw(place, 6, _tcp(place, "a_segment_without_data", 0x10, b"", 8080), TUNNEL_MARK)


@attempt
def a_segment_that_resets(place: Place) -> None:
    _raw(place, 6, _tcp(place, "a_segment_that_resets", 0x04, b"", 8080), PASSED_MARK)


@attempt
def ping(place: Place) -> None:
    _raw(place, 1, struct.pack("!BBHHH", 8, 0, 0, 1, 1) + trace("ping"))


@attempt
def an_answer_to_no_ping(place: Place) -> None:
    _raw(place, 1, struct.pack("!BBHHH", 0, 0, 0, 7, 1) + trace("an_answer_to_no_ping"))


@attempt
def an_error_of_icmp(place: Place) -> None:
    _raw(place, 1, struct.pack("!BBHHH", 3, 4, 0, 0, 1400) + trace("an_error_of_icmp"))


@attempt
def ping_v6(place: Place) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58) as sock:
        sock.sendto(struct.pack("!BBHHH", 128, 0, 0, 1, 1) + trace("ping_v6"), (place.there6, 0))


@attempt
def sctp(place: Place) -> None:
    _raw(place, 132, trace("sctp"))


@attempt
def gre(place: Place) -> None:
    _raw(place, 47, trace("gre"))


@attempt
def ip_in_ip(place: Place) -> None:
    _raw(place, 4, trace("ip_in_ip"))


def _v4(place: Place, protocol: int, payload: bytes, fragment: int = 0) -> bytes:
    ends = socket.inet_aton(place.here) + socket.inet_aton(place.there)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, fragment, 64, protocol, 0) + ends
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def _v6(place: Place, to: str, next_header: int, payload: bytes) -> bytes:
    head = struct.pack("!IHBB", 6 << 28, len(payload), next_header, 255)
    return head + socket.inet_pton(socket.AF_INET6, place.here6) + socket.inet_pton(socket.AF_INET6, to) + payload


def _udp(name: str) -> bytes:
    return struct.pack("!HHHH", 40001, 9999, 12, 0) + trace(name)


def _frame(place: Place, said: int, written: int, packet: bytes, *, bypasses: bool = False) -> None:
    """Send a frame; ``said``: the protocol that the kernel is told, ``written``: the one in the frame."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        if bypasses:
            sock.setsockopt(263, 20, 1)  # SOL_PACKET, PACKET_QDISC_BYPASS
        sock.bind(("eth0", said))
        own = sock.getsockname()[4]
        sock.send(place.mac + own + struct.pack("!H", written) + packet)


@attempt
def a_frame(place: Place) -> None:
    _frame(place, IPV4, IPV4, _v4(place, 17, _udp("a_frame")))


@attempt
def a_frame_said_to_be_arp(place: Place) -> None:
    _frame(place, ARP, IPV4, _v4(place, 17, _udp("a_frame_said_to_be_arp")))


@attempt
def a_frame_said_to_be_unknown(place: Place) -> None:
    _frame(place, 0x88B5, IPV4, _v4(place, 17, _udp("a_frame_said_to_be_unknown")))


@attempt
def a_frame_of_another_protocol(place: Place) -> None:
    _frame(place, 0x88B5, 0x88B5, trace("a_frame_of_another_protocol"))


@attempt
def a_frame_of_a_vlan(place: Place) -> None:
    _frame(place, VLAN, VLAN, struct.pack("!HH", 5, IPV4) + _v4(place, 17, _udp("a_frame_of_a_vlan")))


@attempt
def a_later_fragment(place: Place) -> None:
    _frame(place, IPV4, IPV4, _v4(place, 17, trace("a_later_fragment"), fragment=100))


@attempt
def a_later_fragment_of_icmp(place: Place) -> None:
    _frame(place, IPV4, IPV4, _v4(place, 1, b"\0" * 8 + trace("a_later_fragment_of_icmp"), fragment=100))


@attempt
def neighbour_discovery_beyond_the_link(place: Place) -> None:
    name = "neighbour_discovery_beyond_the_link"
    far = "2001:db8::1"
    solicitation = struct.pack("!BBHI", 135, 0, 0, 0) + socket.inet_pton(socket.AF_INET6, far) + trace(name)
    _frame(place, IPV6, IPV6, _v6(place, far, 58, solicitation))


@attempt
def a_datagram_behind_extension_headers(place: Place) -> None:
    extended = struct.pack("!BBHI", 17, 0, 0x0104, 0) + _udp("a_datagram_behind_extension_headers")
    _frame(place, IPV6, IPV6, _v6(place, place.there6, 60, extended))


@attempt
def multicast(place: Place) -> None:
    _datagram(("224.0.0.251", 5353), "multicast")


def a_frame_that_bypasses_the_queue(place: Place) -> None:
    """Send past traffic control; it leaves the pod, and only the host can drop it."""
    name = "a_frame_that_bypasses_the_queue"
    _frame(place, IPV4, IPV4, _v4(place, 17, _udp(name)), bypasses=True)


if __name__ == "__main__":
    main()
