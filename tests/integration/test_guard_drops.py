"""What the guard drops is counted by reason, whichever node agent has attached the guard."""

import socket
import struct

import pytest

from meshapi import names
from meshkit.linux import netns
from nodeagent.capture.guard import REASONS, Guard
from nodeagent.capture.nftables.pod import NftablesCapture
from nodeagent.capture.plan import Mode, PodPlan
from nodeagent.capture.pod_network import PodNetwork
from tests.integration.test_guard import FLUSHES, capture, guarded
from tests.support.backends import sandbox
from tests.support.waiting import until
from tests.support.wired import Wired, shell

pytestmark = pytest.mark.root


def truncated_tcp() -> bytes:
    """An IPv4 packet to the second pod that says it is TCP and ends before its flags."""
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 24, 0, 0, 64, socket.IPPROTO_TCP, 0, bytes(4), bytes([10, 78, 0, 2]))
    return head + bytes(4)


async def test_every_drop_is_counted_by_its_reason(pods: Wired, space: int) -> None:
    guard = Guard()
    rules = NftablesCapture(PodNetwork(guard))
    capture(rules, space)
    assert guard.drops() == dict.fromkeys(REASONS, 0)
    shell(space, FLUSHES["everything"])

    def send_truncated() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            raw.sendto(truncated_tcp(), ("10.78.0.2", 0))

    netns.run(pods.first, send_truncated)
    assert guard.drops() == {"unreadable": 1, "unmarked": 0, "untranslated": 0}

    def connect(*, port: int, mark: int) -> socket.socket:
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        made.bind(("10.78.0.1", port))
        made.setblocking(False)
        assert made.connect_ex(("10.78.0.2", 8080)) == 115  # EINPROGRESS
        return made

    with netns.run(pods.first, lambda: connect(port=0, mark=0)):
        await until(lambda: guard.drops()["unmarked"] > 0)
    assert guard.drops()["untranslated"] == 0
    with netns.run(pods.first, lambda: connect(port=names.OUTBOUND_PORT, mark=names.TUNNEL_MARK)):
        await until(lambda: guard.drops()["untranslated"] > 0)
    assert guard.drops()["unreadable"] == 1


async def test_drops_of_an_earlier_node_agents_guard_count_and_stay_counted(pods: Wired, space: int) -> None:
    with pods.answering(pods.second, 8080, "application"), pods.connect(pods.first, "10.78.0.2", 8080):
        # A program of its own, because of the connection; it ends with its last link.
        capture(NftablesCapture(PodNetwork(Guard())), space)
    shell(space, FLUSHES["everything"])
    guard = Guard()
    later = NftablesCapture(PodNetwork(guard))
    assert later.missing(sandbox(space), PodPlan()) != ()

    def send_truncated() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            for _ in range(3):
                raw.sendto(truncated_tcp(), ("10.78.0.2", 0))

    netns.run(pods.first, send_truncated)
    assert guard.drops()["unreadable"] == 3
    later.apply(sandbox(space), PodPlan(mode=Mode.NONE))
    assert guarded(space) == frozenset()
    assert guard.drops()["unreadable"] == 3
    assert guard.drops()["unreadable"] == 3, "counted once"
