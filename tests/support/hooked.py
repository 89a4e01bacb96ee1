"""Sockets of an application and of the tunnel, in a pod that BPF hooks capture."""

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from meshapi import names
from meshkit.linux import netns
from nodeagent.capture.plan import PodPlan
from nodeagent.capture.pod import PodCapture
from tests.support.backends import sandbox
from tests.support.waiting import scaled
from tests.support.wired import Wired

SERVERS = {"10.78.0.2": "10.78.0.1", "fd78::2": "fd78::1"}
"""Addresses of the second namespace, with those of the pod."""
ORIGINAL_DST, SO_MARK = 80, 36
NO_PLAN = PodPlan()


def enrol(capture: PodCapture, space: int, plan: PodPlan = NO_PLAN) -> None:
    capture.prepare(sandbox(space))
    capture.apply(sandbox(space), plan)


def family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def stream(pods: Wired, address: str, protocol: int = 0) -> socket.socket:
    made = netns.run(pods.first, lambda: socket.socket(family(address), socket.SOCK_STREAM, protocol))
    made.settimeout(scaled(5))
    return made


@contextmanager
def tunnel(pods: Wired, port: int = names.OUTBOUND_PORT) -> Iterator[socket.socket]:
    """A listener of the tunnel."""
    with pods.listen(pods.first, port) as listener:
        listener.setsockopt(socket.SOL_SOCKET, SO_MARK, names.TUNNEL_MARK)
        yield listener


def original(accepted: socket.socket, server: str) -> tuple[str, int]:
    """Where the tunnel is told that a connection was going."""
    if ":" in server:
        packed = accepted.getsockopt(socket.IPPROTO_IPV6, ORIGINAL_DST, 28)
        return socket.inet_ntop(socket.AF_INET6, packed[8:24]), struct.unpack_from("!H", packed, 2)[0]
    packed = accepted.getsockopt(socket.IPPROTO_IP, ORIGINAL_DST, 16)
    return socket.inet_ntop(socket.AF_INET, packed[4:8]), struct.unpack_from("!H", packed, 2)[0]
