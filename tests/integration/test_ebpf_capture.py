"""Capture by BPF hooks, socket by socket: every way to connect is seen, and applications see what they saw before."""

import asyncio
import ctypes
import socket
import struct
import time
from contextlib import ExitStack

import pytest

from meshapi import names
from nodeagent.capture.annotations import plan_pod
from nodeagent.capture.plan import PodPlan
from nodeagent.capture.pod import PodCapture
from tests.support.hooked import SERVERS, enrol, original, stream, tunnel
from tests.support.waiting import scaled
from tests.support.wired import Wired, shell

pytestmark = pytest.mark.root

TCP_FASTOPEN, TCP_FASTOPEN_CONNECT, IPPROTO_MPTCP = 23, 30, 262
EXCLUDED = plan_pod({"traffic.sidecar.istio.io/excludeOutboundPorts": "3306"}).plan


def by_connect(one: socket.socket, to: tuple[str, int]) -> None:
    one.connect(to)


def by_connect_that_does_not_block(one: socket.socket, to: tuple[str, int]) -> None:
    one.setblocking(False)
    assert one.connect_ex(to) in (0, 115)
    one.settimeout(scaled(5))


def by_fast_open(one: socket.socket, to: tuple[str, int]) -> None:
    one.settimeout(None)
    one.sendto(b"question", socket.MSG_FASTOPEN, to)


def by_fast_open_connect(one: socket.socket, to: tuple[str, int]) -> None:
    one.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
    one.connect(to)
    one.sendall(b"question")


def after_binding_a_port(one: socket.socket, to: tuple[str, int]) -> None:
    one.bind(("", 40007))
    one.connect(to)


def after_binding_address_and_port(one: socket.socket, to: tuple[str, int]) -> None:
    one.bind((SERVERS[to[0]], 40008))
    one.connect(to)


def after_binding_a_link(one: socket.socket, to: tuple[str, int]) -> None:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0\0")
    one.connect(to)


WAYS = (
    by_connect, by_connect_that_does_not_block, by_fast_open, by_fast_open_connect, after_binding_a_port,
    after_binding_address_and_port, after_binding_a_link,
)  # fmt: skip


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("server", SERVERS)
def test_every_way_to_connect_reaches_the_tunnel_and_both_names_of_the_socket_are_the_usual(
    capture: PodCapture, pods: Wired, space: int, server: str, way
) -> None:
    enrol(capture, space)
    with tunnel(pods) as listener, stream(pods, server) as client:
        way(client, (server, 8080))
        accepted, peer = listener.accept()
        with accepted:
            assert original(accepted, server) == (server, 8080)
            assert client.getpeername()[:2] == (server, 8080)
            assert client.getsockname()[0] == SERVERS[server] == peer[0].removeprefix("::ffff:")
            accepted.sendall(b"answer")
            assert client.recv(100) == b"answer"


def test_ipv4_through_a_socket_of_ipv6_is_captured_as_ipv4(capture: PodCapture, pods: Wired, space: int) -> None:
    enrol(capture, space)
    with tunnel(pods) as listener, stream(pods, "::") as client:
        client.connect(("::ffff:10.78.0.2", 8080))
        accepted, _ = listener.accept()
        with accepted:
            assert original(accepted, "10.78.0.2") == ("10.78.0.2", 8080)
            assert client.getpeername()[:2] == ("::ffff:10.78.0.2", 8080)
            assert client.getsockname()[0] == "::ffff:10.78.0.1"


@pytest.mark.parametrize("server", SERVERS)
def test_multipath_tcp_is_captured(capture: PodCapture, pods: Wired, space: int, server: str) -> None:
    """``getpeername`` of such a socket shows the tunnel: what the hook remembers hangs on the subflow."""
    enrol(capture, space)
    with tunnel(pods) as listener, stream(pods, server, IPPROTO_MPTCP) as client:
        client.connect((server, 8080))
        accepted, _ = listener.accept()
        with accepted:
            assert original(accepted, server) == (server, 8080)


@pytest.mark.parametrize("server", SERVERS)
def test_a_connection_that_was_refused_is_captured_when_it_is_tried_again(
    capture: PodCapture, pods: Wired, space: int, server: str
) -> None:
    enrol(capture, space)
    with stream(pods, server) as client:
        client.settimeout(None)
        with pytest.raises(ConnectionRefusedError):
            client.connect((server, 8080))
        with tunnel(pods) as listener:
            client.connect((server, 8080))
            accepted, _ = listener.accept()
            with accepted:
                assert original(accepted, server) == (server, 8080)


@pytest.mark.parametrize("server", SERVERS)
def test_a_socket_that_was_captured_and_then_connects_elsewhere_shows_its_new_peer(
    capture: PodCapture, pods: Wired, space: int, server: str
) -> None:
    enrol(capture, space, EXCLUDED)
    with ExitStack() as stack:
        listener = stack.enter_context(tunnel(pods))
        other = stack.enter_context(pods.listen(pods.second, 3306))
        client = stack.enter_context(stream(pods, server))
        client.connect((server, 8080))
        stack.enter_context(listener.accept()[0])
        disconnect(client)
        client.connect((server, 3306))
        accepted, _ = other.accept()
        with accepted:
            assert client.getpeername()[:2] == (server, 3306)
            client.sendall(b"directly")
            accepted.settimeout(scaled(5))
            assert accepted.recv(100) == b"directly"


def disconnect(one: socket.socket) -> None:
    unspecified = struct.pack("=H14x", socket.AF_UNSPEC)
    assert ctypes.CDLL(None).connect(one.fileno(), unspecified, len(unspecified)) == 0


@pytest.mark.parametrize("server", SERVERS)
def test_the_tunnel_is_never_told_the_destination_of_an_earlier_connection_from_the_same_port(
    capture: PodCapture, pods: Wired, space: int, server: str
) -> None:
    enrol(capture, space)

    def opened(to: tuple[str, int]) -> socket.socket:
        made = stream(pods, server)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # ends with RST, without TIME_WAIT
        made.bind((SERVERS[server], 40001))
        made.connect(to)
        return made

    with tunnel(pods) as listener:
        with opened((server, 8080)):
            accepted, _ = listener.accept()
            with accepted:
                assert original(accepted, server) == (server, 8080)
        with opened((SERVERS[server], names.OUTBOUND_PORT)):
            accepted, _ = listener.accept()
            with accepted, pytest.raises(OSError):
                original(accepted, server)


@pytest.mark.parametrize("server", SERVERS)
def test_a_connection_from_outside_keeps_both_addresses_and_is_not_tracked(
    capture: PodCapture, pods: Wired, space: int, server: str
) -> None:
    here = SERVERS[server]
    enrol(capture, space)
    with tunnel(pods, names.INBOUND_PLAINTEXT_PORT) as listener, pods.connect(pods.second, here, 8080) as client:
        accepted, peer = listener.accept()
        with accepted:
            assert accepted.getsockname()[0].removeprefix("::ffff:") == here
            assert accepted.getsockname()[1] == 8080
            assert peer[0].removeprefix("::ffff:") == server
            assert original(accepted, here) == (here, 8080)
            assert client.getpeername()[:2] == (here, 8080)
    assert shell(space, "cat /proc/net/nf_conntrack 2>/dev/null || true") == ""
    assert shell(space, "nft list ruleset; cat /proc/net/ip_tables_names") == ""


@pytest.mark.parametrize("server", SERVERS)
def test_queries_are_answered_as_if_by_the_resolver_that_was_asked(
    capture: PodCapture, pods: Wired, space: int, server: str
) -> None:
    loopback = "::1" if ":" in server else "127.0.0.1"
    enrol(capture, space, PodPlan(dns=True))
    with (
        pods.answering_datagrams(pods.first, names.DNS_PORT, "tunnel", at=loopback, mark=names.TUNNEL_MARK),
        pods.datagrams(pods.first, server) as client,
    ):
        client.sendto(b"question", (server, 53))
        answer, peer = client.recvfrom(100)
        assert (answer, peer[:2]) == (b"tunnel", (server, 53))
        client.connect((server, 53))
        assert client.getpeername()[:2] == (server, 53)
        client.send(b"question")
        answer, peer = client.recvfrom(100)
        assert (answer, peer[:2]) == (b"tunnel", (server, 53))


def test_the_tunnel_learns_which_resolver_a_client_has_asked(capture: PodCapture, pods: Wired, space: int) -> None:
    """By a socket that is connected to the client, as the engine does it."""
    enrol(capture, space, PodPlan(dns=True))
    with (
        pods.answering_datagrams(pods.first, names.DNS_PORT, "tunnel", at="127.0.0.1", mark=names.TUNNEL_MARK),
        pods.datagrams(pods.first, "10.78.0.2") as client,
        pods.datagrams(pods.first, "10.78.0.2", mark=names.TUNNEL_MARK) as asking,
    ):
        for resolver in ("10.78.0.2", "10.78.0.3"):
            client.sendto(b"question", (resolver, 53))
            client.recv(100)
            asking.connect(("127.0.0.1", client.getsockname()[1]))
            assert original(asking, "10.78.0.2") == (resolver, 53)


def test_other_datagrams_are_left_alone(capture: PodCapture, pods: Wired, space: int) -> None:
    enrol(capture, space, PodPlan(dns=True))
    with pods.answering_datagrams(pods.second, 8053, "server"):
        assert pods.request_datagram(pods.first, "10.78.0.2", 8053) == "server"


def test_more_connections_than_ports_are_made_one_after_the_other(capture: PodCapture, pods: Wired, space: int) -> None:
    """They all go to one address and port, so that ports in TIME_WAIT have to be used again."""
    enrol(capture, space)
    shell(space, "echo 50000 50019 > /proc/sys/net/ipv4/ip_local_port_range")
    with tunnel(pods) as listener:
        made = 0

        async def one() -> None:
            nonlocal made
            with stream(pods, "10.78.0.2") as client:
                client.connect(("10.78.0.2", 8080))
                accepted, _ = listener.accept()
                client.shutdown(socket.SHUT_WR)  # the client ends first, and has the TIME_WAIT
                assert accepted.recv(1) == b""
                accepted.close()
                assert client.recv(1) == b""
                made += 1

        async def many() -> None:
            ends = time.monotonic() + scaled(30)
            while made < 60 and time.monotonic() < ends:
                try:
                    await one()
                except OSError as error:
                    assert error.errno == 99, error  # EADDRNOTAVAIL: reused after a second
                    await asyncio.sleep(0.1)

        asyncio.run(many())
        assert made == 60
