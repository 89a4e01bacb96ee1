"""Around the hooks: processes that they do not see, packets of no socket, hooks that are gone, addresses used twice."""

import socket
import struct
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from meshapi import names
from meshkit.linux import cgroups, netns
from nodeagent.capture.ebpf.node import EbpfNode
from nodeagent.capture.ebpf.pod import EbpfCapture
from nodeagent.capture.guard import Guard
from nodeagent.capture.pod import PodCapture
from nodeagent.capture.pod_network import PodNetwork
from tests.integration.test_guard import Seen
from tests.support import backends, ebpf
from tests.support.backends import sandbox
from tests.support.hooked import NO_PLAN, SERVERS, SO_MARK, enrol, family, original, stream, tunnel
from tests.support.waiting import scaled, until
from tests.support.wired import Wired, shell

pytestmark = pytest.mark.root


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
            enrol(EbpfCapture(node, PodNetwork(guard)), space)
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
            enrol(EbpfCapture(node, PodNetwork()), space)
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
    ebpf.wait_detached()
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
