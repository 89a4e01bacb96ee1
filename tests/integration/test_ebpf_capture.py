"""Capture by BPF hooks, socket by socket: every way to connect is seen, and applications see what they saw before."""

import asyncio
import ctypes
import socket
import struct
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from meshapi import names
from meshengine.bpf import programs_at
from meshkit.linux import cgroups, netns
from nodeagent.capture.annotations import plan_pod
from nodeagent.capture.ebpf.node import EbpfNode
from nodeagent.capture.ebpf.pod import EbpfCapture
from nodeagent.capture.guard import Guard
from nodeagent.capture.plan import PodPlan
from nodeagent.capture.pod import PodCapture
from tests.integration.test_guard import Seen
from tests.support import backends, ebpf
from tests.support.backends import sandbox
from tests.support.waiting import scaled, until
from tests.support.wired import Wired, shell

pytestmark = pytest.mark.root

SERVERS = {"10.78.0.2": "10.78.0.1", "fd78::2": "fd78::1"}
TCP_FASTOPEN, TCP_FASTOPEN_CONNECT, IPPROTO_MPTCP = 23, 30, 262
ORIGINAL_DST, SO_MARK = 80, 36
NO_PLAN = PodPlan()
EXCLUDED = plan_pod({"traffic.sidecar.istio.io/excludeOutboundPorts": "3306"}).plan


@pytest.fixture
def capture(tmp_path: Path) -> PodCapture:
    return backends.backend("ebpf", tmp_path / "lock").pods


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


@contextmanager
def cgroup() -> Iterator[str]:
    name = f"culvert-test-{uuid.uuid4().hex[:8]}"
    (ebpf.root() / name).mkdir()
    try:
        yield name
    finally:
        cgroups.remove(name)


CONNECT = (
    "import os, socket, sys\n"
    "open(sys.argv[1] + '/cgroup.procs', 'w').write(str(os.getpid()))\n"
    "one = socket.socket(); one.settimeout(1)\n"
    "print(one.connect_ex((sys.argv[2], 8080)))\n"
)


def connect_in(folder: Path, space: int, server: str) -> str:
    return shell(space, f'{sys.executable} -c "{CONNECT}" {folder} {server}').strip()


def test_a_process_that_the_hooks_do_not_see_gets_nothing_out(tmp_path: Path, pods: Wired, space: int) -> None:
    """The hooks are at one cgroup; a process of the pod is in another."""
    with cgroup() as covered, cgroup() as outside:
        node = EbpfNode(ebpf.file_system() / "apart", ebpf.root() / covered)
        guard = Guard()
        try:
            node.attach()
            enrol(EbpfCapture(node, guard=guard), space)
            with tunnel(pods), pods.answering(pods.second, 8080, "application"):
                assert connect_in(ebpf.root() / covered, space, "10.78.0.2") == "0", "to the tunnel"
                assert connect_in(ebpf.root() / outside, space, "10.78.0.2") == "11", "times out"
            assert guard.drops()["unmarked"] > 0
        finally:
            node.uninstall()


def test_only_the_tunnels_own_cgroup_is_told_the_destination(pods: Wired, space: int) -> None:
    with cgroup() as of_tunnel:
        node = EbpfNode(ebpf.file_system() / "apart", ebpf.root())
        try:
            node.attach()
            node.attach_tunnel(ebpf.root() / of_tunnel)
            enrol(EbpfCapture(node, guard=Guard()), space)
            with tunnel(pods) as listener, stream(pods, "10.78.0.2") as client:
                client.connect(("10.78.0.2", 8080))
                accepted, _ = listener.accept()
                with accepted, pytest.raises(OSError):
                    original(accepted, "10.78.0.2")
        finally:
            node.uninstall()


@pytest.mark.parametrize("server", SERVERS)
async def test_without_the_hooks_nothing_leaves_and_with_them_again_connections_are_captured(
    capture: PodCapture, pods: Wired, space: int, server: str
) -> None:
    enrol(capture, space)
    shell(space, backends.REMOVE_HOOKS)
    await until(lambda: programs_at(ebpf.root()) == [])  # the kernel detaches later
    with tunnel(pods), pods.answering(pods.second, 8080, "application"), stream(pods, server) as client:
        client.setblocking(False)
        assert client.connect_ex((server, 8080)) == 115
        await until(lambda: any(client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[2:5]))
        assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == b"\2", "still SYN_SENT"
    assert "hook cv_connect4" in capture.missing(sandbox(space), NO_PLAN)
    capture.repair(sandbox(space), NO_PLAN)
    assert capture.missing(sandbox(space), NO_PLAN) == ()
    with pods.answering(pods.first, names.OUTBOUND_PORT, "tunnel"):
        assert pods.request(pods.first, server, 8080) == "tunnel"


@pytest.mark.parametrize("server", SERVERS)
def test_the_tunnel_reaches_the_application_under_its_clients_address_and_nobody_else_does(
    capture: PodCapture, pods: Wired, space: int, server: str
) -> None:
    """A client that then uses the very address and port of the tunnel's connection is captured all the same."""
    here = SERVERS[server]
    enrol(capture, space)
    transparent = (socket.IPPROTO_IPV6, 75) if ":" in server else (socket.IPPROTO_IP, 19)

    def dial() -> socket.socket:
        made = socket.socket(family(server))
        made.setsockopt(socket.SOL_SOCKET, SO_MARK, names.TUNNEL_MARK)
        made.setsockopt(*transparent, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # ends with RST
        made.bind((server, 20001))
        made.settimeout(scaled(5))
        made.connect((here, 8080))
        return made

    def same() -> socket.socket:
        made = socket.socket(family(server))
        made.bind((server, 20001))
        made.settimeout(scaled(5))
        made.connect((here, 8080))
        return made

    with pods.listen(pods.first, 8080) as application, tunnel(pods, names.INBOUND_PLAINTEXT_PORT) as listener:
        for _ in range(5):
            with netns.run(pods.first, dial) as dialled:
                accepted, peer = application.accept()
                with accepted:
                    assert (peer[0].removeprefix("::ffff:"), peer[1]) == (server, 20001)
                    accepted.sendall(b"answer")
                    assert dialled.recv(100) == b"answer"
        with netns.run(pods.second, same):
            listener.accept()[0].close()
        application.settimeout(0)
        with pytest.raises(BlockingIOError):
            application.accept()


@pytest.mark.parametrize("payload", [b"", b"secret"], ids=["syn", "data"])
def test_packets_that_no_hook_has_seen_do_not_leave(
    capture: PodCapture, pods: Wired, space: int, seen: Seen, payload: bytes
) -> None:
    """From a raw socket, as a process with CAP_NET_RAW can make them."""
    enrol(capture, space)
    flags = 0x18 if payload else 0x02
    segment = struct.pack("!HHIIBBHHH", 40009, 8080, 1, 1, 5 << 4, flags, 1000, 0, 0) + payload

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
            raw.sendto(segment, ("10.78.0.2", 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:  # when this has come, the first would have, too
            other.sendto(b"last", ("10.78.0.2", 9))

    with pods.datagrams(pods.second, "10.78.0.2") as last:
        last.bind(("10.78.0.2", 9))
        netns.run(pods.first, send)
        assert last.recv(100) == b"last"
    assert seen.tcp() == []


@pytest.fixture
def seen(pods: Wired) -> Iterator[Seen]:
    with closing(Seen(pods)) as made:
        yield made


@pytest.mark.parametrize("server", SERVERS)
def test_connections_within_the_pod_survive_syn_cookies(
    capture: PodCapture, pods: Wired, space: int, server: str
) -> None:
    """The end of a handshake with a cookie looks for a listener again: it must be the one that has sent the cookie."""
    here = SERVERS[server]
    enrol(capture, space)
    shell(space, "echo 2 > /proc/sys/net/ipv4/tcp_syncookies")  # on every SYN
    with (
        tunnel(pods) as outbound,
        tunnel(pods, names.INBOUND_PLAINTEXT_PORT) as inbound,
        pods.listen(pods.first, 8080) as application,
    ):
        for source, to, listener in (
            (pods.first, (server, 8080), outbound),
            (pods.first, (here, 8080), application),
            (pods.second, (here, 8080), inbound),
        ):
            with pods.connect(source, *to) as client:
                accepted, _ = listener.accept()
                with accepted:
                    client.sendall(b"question")
                    accepted.settimeout(scaled(5))
                    assert accepted.recv(100) == b"question"
