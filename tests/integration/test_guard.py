"""While a captured pod's rules are missing, no application data leaves it; once they are back, connections go on."""

import os
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from meshapi import names
from meshengine.bpf import load_guard
from meshkit.linux import egress, netns
from nodeagent.capture.annotations import plan_pod
from nodeagent.capture.choice import Wanted, choose
from nodeagent.capture.nftables.pod import NftablesCapture
from nodeagent.capture.plan import Mode, PodPlan
from nodeagent.capture.pod import PodCapture
from nodeagent.capture.pod_network import PodNetwork
from tests.support import backends
from tests.support.backends import sandbox
from tests.support.waiting import scaled, until
from tests.support.wired import Wired, shell, wired

pytestmark = pytest.mark.root

FLUSHES = {
    "everything": f"{backends.FLUSH}; ip rule del priority 32764; ip -6 rule del priority 32764",
    "what redirects": "nft flush chain inet culvert nat_output; nft flush chain inet culvert nat_prerouting; "
    "for p in iptables ip6tables; do for k in legacy nft; do $p-$k -t nat -F; done; done; true",
    "what redirects, with its hooks": "for c in nat_output nat_prerouting; do nft flush chain inet culvert $c; "
    "nft delete chain inet culvert $c; done; for p in iptables ip6tables; do for k in legacy nft; do "
    "for c in PREROUTING OUTPUT; do $p-$k -t nat -F $c; done; $p-$k -t nat -F; $p-$k -t nat -X; done; done; true",
}
HERE = {"10.78.0.2": "10.78.0.1", "fd78::2": "fd78::1"}
PAYLOAD = b"said by the application"


class Seen:
    """The packets received in the second namespace."""

    def __init__(self, pods: Wired) -> None:
        def listen() -> socket.socket:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, socket.htons(3))
            made.bind(("eth0", 3))
            return made

        self._socket = netns.run(pods.second, listen)

    def tcp(self) -> list[bytes]:
        """TCP packets from the pod since the last call."""
        packets = []
        while True:
            try:
                packet, head = self._socket.recvfrom(65536)
            except BlockingIOError:
                return packets
            is_tcp = (packet[0] >> 4 == 4 and packet[9] == 6) or (packet[0] >> 4 == 6 and packet[6] in (0, 6, 44, 60))
            if is_tcp and head[2] == socket.PACKET_HOST:
                packets.append(packet)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def backend(rules: PodCapture) -> PodCapture:
    """What is flushed here are rules; ``test_ebpf_bypass`` has the same for hooks."""
    return rules


@pytest.fixture
def seen(pods: Wired) -> Iterator[Seen]:
    with closing(Seen(pods)) as made:
        yield made


def guarded(space: int) -> frozenset[str]:
    def look() -> frozenset[str]:
        with egress.programs("culvert-guard") as programs:
            return frozenset(programs.attached)

    return netns.run(space, look)


def capture(backend: PodCapture, space: int, plan: PodPlan | None = None) -> None:
    backend.prepare(sandbox(space))
    backend.apply(sandbox(space), plan or PodPlan())


def is_tried_again(connection: socket.socket) -> bool:
    """Whether the kernel has tried to send something of a connection again (``tcpi_retransmits`` and what follows)."""
    return any(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[2:5])


def waits_longer_each_time(connection: socket.socket) -> bool:
    """Whether the kernel backs off as it does where packets are lost (``tcpi_backoff``)."""
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[4] > 0


def has_come(connection: socket.socket) -> bool:
    return bool(select.select([connection], [], [], 0)[0])


@pytest.mark.parametrize("flush", FLUSHES)
@pytest.mark.parametrize("server", HERE)
async def test_a_new_connection_waits_for_the_rules(
    backend: PodCapture, pods: Wired, space: int, seen: Seen, server: str, flush: str
) -> None:
    capture(backend, space)
    shell(space, FLUSHES[flush])
    with (
        pods.answering(pods.first, names.OUTBOUND_PORT, "tunnel"),
        pods.answering(pods.second, 8080, "application"),
    ):
        opening = netns.run(
            pods.first, lambda: socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_STREAM)
        )
        with opening:
            opening.setblocking(False)
            assert opening.connect_ex((server, 8080)) == 115  # EINPROGRESS
            await until(lambda: is_tried_again(opening))
            assert seen.tcp() == []
            backend.repair(sandbox(space), PodPlan())
            await until(lambda: has_come(opening))
            assert opening.recv(100) == b"tunnel"
        assert seen.tcp() == []


async def test_a_new_connection_waits_as_long_as_where_packets_are_lost(pods: Wired, space: int) -> None:
    """TCP that is notified of a drop does not back off: it retries every half second, and soon gives up."""
    rules = NftablesCapture(PodNetwork(guarded=True))
    capture(rules, space)
    shell(space, FLUSHES["everything"])
    opening = netns.run(pods.first, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    with opening:
        opening.setblocking(False)
        assert opening.connect_ex(("10.78.0.2", 8080)) == 115  # EINPROGRESS
        await until(lambda: waits_longer_each_time(opening), within_s=15)
        assert opening.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        with pods.answering(pods.first, names.OUTBOUND_PORT, "tunnel"):
            rules.repair(sandbox(space), PodPlan())
            await until(lambda: has_come(opening), within_s=10)
            assert opening.recv(100) == b"tunnel"


@pytest.mark.parametrize("flush", FLUSHES)
@pytest.mark.parametrize("server", HERE)
async def test_an_open_connection_waits_for_the_rules(
    backend: PodCapture, pods: Wired, space: int, seen: Seen, server: str, flush: str
) -> None:
    capture(backend, space)
    with ExitStack() as stack:
        tunnel = stack.enter_context(pods.listen(pods.first, names.OUTBOUND_PORT))
        application = stack.enter_context(pods.connect(pods.first, server, 8080))
        accepted = stack.enter_context(tunnel.accept()[0])
        accepted.settimeout(scaled(5))
        application.sendall(b"before")
        assert accepted.recv(100) == b"before"
        shell(space, FLUSHES[flush])
        application.sendall(PAYLOAD)
        # As long as its hooks are there, the kernel remembers what it has rewritten.
        await until(lambda: is_tried_again(application) or has_come(accepted))
        assert seen.tcp() == []
        backend.repair(sandbox(space), PodPlan())
        assert accepted.recv(100) == PAYLOAD
        accepted.sendall(b"after")
        assert application.recv(100) == b"after"
        assert seen.tcp() == []


@pytest.mark.parametrize("flush", FLUSHES)
@pytest.mark.parametrize("server", HERE)
async def test_a_connection_from_outside_waits_for_the_rules(
    backend: PodCapture, pods: Wired, space: int, seen: Seen, server: str, flush: str
) -> None:
    capture(backend, space)
    shell(space, FLUSHES[flush])
    with ExitStack() as stack:
        application = stack.enter_context(pods.listen(pods.first, 8080))
        client = stack.enter_context(
            netns.run(pods.second, lambda: socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET))
        )
        client.setblocking(False)
        assert client.connect_ex((HERE[server], 8080)) == 115
        await until(lambda: is_tried_again(client))
        assert seen.tcp() == []
        application.settimeout(0)
        with pytest.raises(BlockingIOError):
            application.accept()
        stack.enter_context(pods.answering(pods.first, names.INBOUND_PLAINTEXT_PORT, "tunnel", mark=names.TUNNEL_MARK))
        backend.repair(sandbox(space), PodPlan())
        await until(lambda: has_come(client))
        assert client.recv(100) == b"tunnel"


@pytest.mark.parametrize("server", HERE)
def test_open_and_excluded_connections_go_on(backend: PodCapture, pods: Wired, space: int, server: str) -> None:
    excluded = plan_pod(
        {
            "traffic.sidecar.istio.io/excludeOutboundPorts": "3306",
            "traffic.sidecar.istio.io/excludeInboundPorts": "9100",
        }
    ).plan

    def both_ways(one: socket.socket, other: socket.socket) -> None:
        for here, there in ((one, other), (other, one)):
            here.sendall(PAYLOAD)
            there.settimeout(scaled(5))
            assert there.recv(100) == PAYLOAD

    with ExitStack() as stack:

        def opened(to: Path, port: int, address: str) -> tuple[socket.socket, socket.socket]:
            listener = stack.enter_context(pods.listen(to, port))
            source = pods.second if to is pods.first else pods.first
            client = stack.enter_context(pods.connect(source, address, port))
            return client, stack.enter_context(listener.accept()[0])

        older = [opened(pods.second, 8080, server), opened(pods.first, 8081, HERE[server])]
        capture(backend, space, excluded)
        newer = [opened(pods.second, 3306, server), opened(pods.first, 9100, HERE[server])]
        for pair in older + newer:
            both_ways(*pair)
        shell(space, FLUSHES["everything"])
        for pair in older:
            both_ways(*pair)
        backend.repair(sandbox(space), excluded)
        for pair in older + newer:
            both_ways(*pair)


async def test_reusing_the_ports_of_an_open_connection_does_not_bypass_the_guard(
    pods: Wired, space: int, seen: Seen
) -> None:
    backend = backends.backend("nftables", Path("/dev/null")).pods

    def opened() -> socket.socket:
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # ends with RST, without TIME_WAIT
        made.bind(("10.78.0.1", 40001))
        made.setblocking(False)
        made.connect_ex(("10.78.0.2", 8080))
        return made

    with pods.answering(pods.second, 8080, "application"):
        first = netns.run(pods.first, opened)
        await until(lambda: first.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == b"\1")
        capture(backend, space)
        first.sendall(PAYLOAD)
        await until(lambda: any(PAYLOAD in packet for packet in seen.tcp()))
        shell(space, FLUSHES["everything"])
        first.close()
        seen.tcp()
        with netns.run(pods.first, opened) as second:
            await until(lambda: is_tried_again(second))
            assert seen.tcp() == []


@pytest.mark.parametrize("option", [54, 59], ids=["hop by hop", "destination"])  # IPV6_HOPOPTS, IPV6_DSTOPTS
async def test_ipv6_extension_headers_do_not_bypass_the_guard(pods: Wired, space: int, seen: Seen, option: int) -> None:
    capture(backends.backend("nftables", Path("/dev/null")).pods, space)

    def opened() -> socket.socket:
        made = socket.socket(socket.AF_INET6)
        made.setsockopt(socket.IPPROTO_IPV6, option, bytes([0, 0, 1, 4, 0, 0, 0, 0]))  # padding
        made.setblocking(False)
        made.connect_ex(("fd78::2", 8080))
        return made

    with pods.answering(pods.second, 8080, "application"):
        shell(space, "nft delete chain inet culvert mangle_postrouting")
        shell(space, FLUSHES["everything"])
        with netns.run(pods.first, opened) as connection:
            await until(lambda: is_tried_again(connection))
            assert seen.tcp() == []
            shell(space, "tc qdisc del dev eth0 clsact")
            await until(lambda: connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == b"\1")
            assert any(packet[6] in (0, 60) for packet in seen.tcp()), "the header was there all the time"


@pytest.mark.parametrize("server", HERE)
async def test_data_from_the_tunnel_to_the_application_waits_for_the_rules(
    backend: PodCapture, pods: Wired, space: int, server: str
) -> None:
    """Untranslated, it would be answered by a reset, and the connection be gone without the application's knowing."""
    capture(backend, space)
    with ExitStack() as stack:
        for listens, port, source, address in (
            (names.OUTBOUND_PORT, 8080, pods.first, server),
            (names.INBOUND_PLAINTEXT_PORT, 8081, pods.second, HERE[server]),
        ):
            tunnel = stack.enter_context(pods.listen(pods.first, listens))
            tunnel.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, names.TUNNEL_MARK)
            application = stack.enter_context(pods.connect(source, address, port))
            accepted = stack.enter_context(tunnel.accept()[0])
            application.settimeout(scaled(5))
            shell(space, FLUSHES["everything"])
            accepted.sendall(PAYLOAD)
            await until(lambda accepted=accepted: is_tried_again(accepted))
            backend.repair(sandbox(space), PodPlan())
            assert application.recv(100) == PAYLOAD


def test_the_guard_does_not_delay_the_tunnel(pods: Wired, space: int) -> None:
    capture(backends.backend("nftables", Path("/dev/null")).pods, space)
    shell(space, FLUSHES["everything"])

    def request() -> str:
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, names.TUNNEL_MARK)
            connection.settimeout(scaled(5))
            connection.connect(("10.78.0.2", names.HBONE_PORT))
            return connection.recv(100).decode()

    with pods.answering(pods.second, names.HBONE_PORT, "peer"):
        assert netns.run(pods.first, request) == "peer"
    with pods.answering(pods.first, names.HBONE_PORT, "tunnel", mark=names.TUNNEL_MARK):
        assert pods.request(pods.second, "10.78.0.1", names.HBONE_PORT) == "tunnel"


@pytest.mark.parametrize("mode", [Mode.DRAIN, Mode.NONE])
def test_an_unenrolled_pod_has_no_guard(backend: PodCapture, pods: Wired, space: int, mode: Mode) -> None:
    before = shell(space, "tc qdisc show; tc filter show dev eth0 egress")
    capture(backend, space)
    assert "culvert-guard" in shell(space, "tc filter show dev eth0 egress")
    backend.apply(sandbox(space), PodPlan(mode=mode))
    assert shell(space, "tc qdisc show; tc filter show dev eth0 egress") == before
    with pods.answering(pods.second, 8080, "application"):
        assert pods.request(pods.first, "10.78.0.2", 8080) == "application"


def test_bpf_programs_of_other_owners_stay(pods: Wired, space: int) -> None:
    theirs = "tc filter show dev eth0 ingress"

    def add() -> None:
        program = load_guard(tunnel_mark=0, tunnel_mark_mask=0, passed_mark=0, redirect_ports=(0, 0), preexisting=[])
        with IPRoute() as netlink:
            [index] = netlink.link_lookup(ifname="eth0")
            netlink.tc("add", "clsact", index)
            netlink.tc("add-filter", "bpf", index, ":1", fd=program, name="theirs", parent=0xFFFFFFF2, classid=1)
        os.close(program)

    netns.run(space, add)
    before = shell(space, theirs)
    assert "theirs" in before
    backend = backends.backend("nftables", Path("/dev/null")).pods
    capture(backend, space)
    backend.apply(sandbox(space), PodPlan(mode=Mode.NONE))
    assert shell(space, theirs) == before
    assert "clsact" in shell(space, "tc qdisc show dev eth0")


def test_an_added_link_is_reported_missing_until_it_is_guarded(pods: Wired, space: int) -> None:
    backend = backends.backend("nftables", Path("/dev/null")).pods
    capture(backend, space)
    assert backend.missing(sandbox(space), PodPlan()) == ()
    shell(space, "ip link add net1 type veth peer name net2")
    assert backend.missing(sandbox(space), PodPlan()) == ("guard of net1", "guard of net2")
    backend.repair(sandbox(space), PodPlan())
    assert backend.missing(sandbox(space), PodPlan()) == ()
    assert guarded(space) == {"lo", "eth0", "net1", "net2"}
    excluded = plan_pod({"traffic.sidecar.istio.io/excludeInterfaces": "net1"}).plan
    backend.apply(sandbox(space), excluded)
    assert guarded(space) == {"lo", "eth0", "net2"}


def test_without_a_guard_only_the_rules_are_installed(pods: Wired, space: int, tmp_path: Path) -> None:
    capture(choose(Wanted.AUTO, tmp_path / "lock").backend.pods, space)
    choice = choose(Wanted.AUTO, tmp_path / "lock", guard=False)
    assert choice.unguarded == "as set"
    capture(choice.backend.pods, space)
    assert choice.backend.pods.missing(sandbox(space), PodPlan()) == ()
    assert guarded(space) == frozenset()


def test_a_kernel_that_refuses_the_program_is_no_reason_to_leave_pods_uncaptured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pods: Wired, space: int
) -> None:
    from nodeagent.capture import guard

    def refuse(*args: object) -> int:
        raise OSError("the kernel does not load the guard: Operation not permitted")

    monkeypatch.setattr(guard, "_load", refuse)
    choice = choose(Wanted.AUTO, tmp_path / "lock")
    assert "not permitted" in choice.unguarded
    capture(choice.backend.pods, space)
    with pods.answering(pods.first, names.OUTBOUND_PORT, "tunnel"):
        assert pods.request(pods.first, "10.78.0.2", 8080) == "tunnel"


def test_guards_are_attached_concurrently(tmp_path: Path) -> None:
    """Many pods are enrolled at once, each on a thread of its own."""
    backend = backends.backend("nftables", tmp_path / "lock").pods
    assert PodNetwork().guarded
    failures: list[BaseException] = []
    with ExitStack() as stack:
        spaces = [stack.enter_context(wired()).first for _ in range(8)]

        def enrol(path: Path) -> None:
            try:
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    capture(backend, descriptor)
                    assert backend.missing(sandbox(descriptor), PodPlan()) == ()
                finally:
                    os.close(descriptor)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=enrol, args=(path,)) for path in spaces]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []
