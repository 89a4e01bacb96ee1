"""Default deny: whatever a process of the pod sends, nothing leaves; what answers a peer does, and the tunnel."""

import os
import socket
import struct
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest

from meshapi import names
from meshkit.linux import cgroups, egress, links, netns
from nodeagent.capture.annotations import plan_pod
from nodeagent.capture.egress_filter import EgressFilter
from nodeagent.capture.plan import Mode, PodPlan
from nodeagent.capture.pod import PodCapture
from tests.support import backends, ebpf
from tests.support.backends import sandbox
from tests.support.intruder import ATTEMPTS, checksum, trace
from tests.support.waiting import scaled, until
from tests.support.wired import Wired, shell

pytestmark = pytest.mark.root

ANNOTATIONS = {
    "traffic.sidecar.istio.io/excludeOutboundPorts": "53,3306,8080",
    "traffic.sidecar.istio.io/excludeOutboundIPRanges": "10.78.0.2/32,fd78::2/128",
    "traffic.sidecar.istio.io/excludeInterfaces": "eth0",
    "traffic.sidecar.istio.io/excludeInboundPorts": "9100",
}
OPEN, HELD = (plan_pod(ANNOTATIONS, registry_only=held).plan for held in (False, True))
HERE = {"10.78.0.2": "10.78.0.1", "fd78::2": "fd78::1"}


class Sniffer:
    """Every frame that reaches the second namespace."""

    def __init__(self, pods: Wired) -> None:
        def listen() -> socket.socket:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(3))
            made.bind(("eth0", 3))
            return made

        self._socket = netns.run(pods.second, listen)
        self.frames: list[bytes] = []

    def saw(self, name: str) -> bool:
        return any(trace(name) in frame for frame in self.look())

    def look(self) -> list[bytes]:
        while True:
            try:
                frame, head = self._socket.recvfrom(65536)
            except BlockingIOError:
                return self.frames
            if head[2] != socket.PACKET_OUTGOING:
                self.frames.append(frame)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def pins() -> Path:
    return ebpf.file_system() / f"{uuid.uuid4().hex[:8]}-egress"


@pytest.fixture
def held(pins: Path) -> EgressFilter:
    return ebpf.egress_filter(pins)


@pytest.fixture(params=backends.NAMES)
def backend(request: pytest.FixtureRequest, tmp_path: Path, held: EgressFilter) -> PodCapture:
    return backends.backend(request.param, tmp_path / "lock", egress=held).pods


@pytest.fixture
def nftables(tmp_path: Path, held: EgressFilter) -> PodCapture:
    """For what does not depend on the rules."""
    return backends.backend("nftables", tmp_path / "lock", egress=held).pods


@pytest.fixture
def sniffer(pods: Wired) -> Iterator[Sniffer]:
    with closing(Sniffer(pods)) as made:
        yield made


@pytest.fixture
def group() -> Iterator[Path]:
    name = f"culvert-test-{uuid.uuid4().hex[:8]}"
    (ebpf.root() / name).mkdir()
    yield ebpf.root() / name
    cgroups.remove(name)


def apply(backend: PodCapture, space: int, plan: PodPlan) -> None:
    backend.prepare(sandbox(space))
    backend.apply(sandbox(space), plan)


def intrude(pods: Wired, group: Path) -> None:
    """Run every attempt to its end."""
    mac = next(link.mac for link in netns.run(pods.second, links.links) if link.name == "eth0").replace(":", "")
    ends = ("10.78.0.1", "10.78.0.2", "fd78::1", "fd78::2")
    command = [sys.executable, "-m", "tests.support.intruder", str(group), *ends, mac]
    netns.run(pods.first, lambda: subprocess.run(command, check=True, timeout=scaled(30)))


def acquaint(pods: Wired) -> None:
    """Let both ends know each other's hardware addresses, so that no packet waits for them."""
    with pods.answering(pods.second, 7, "here"):
        for server in HERE:
            assert pods.request(pods.first, server, 7) == "here"
    shell(pods.first, "ip route add default via 10.78.0.2")


def socket_of_tunnel(pods: Wired, server: str = "") -> socket.socket:
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    client = netns.run(pods.first, lambda: socket.socket(family))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, names.TUNNEL_MARK)
    client.settimeout(scaled(5))
    return client


def pinged(space: Path, address: str) -> bool:
    """Send an echo and wait for its answer."""
    v6 = ":" in address
    family, protocol = (socket.AF_INET6, 58) if v6 else (socket.AF_INET, 1)
    request, reply = (128, 129) if v6 else (8, 0)
    with netns.run(space, lambda: socket.socket(family, socket.SOCK_RAW, protocol)) as sock:
        sock.settimeout(scaled(5))
        identifier = os.getpid() & 0xFFFF
        echo = struct.pack("!BBHHH", request, 0, 0, identifier, 1)
        sock.sendto(echo[:2] + struct.pack("!H", checksum(echo)) + echo[4:], (address, 0))
        while True:
            packet = sock.recv(1500)
            head = packet if v6 else packet[20:]
            if head[0] == reply and head[4:6] == struct.pack("!H", identifier):
                return True


def test_every_attempt_succeeds_without_the_filter_and_none_with_it(
    backend: PodCapture, held: EgressFilter, pods: Wired, space: int, sniffer: Sniffer, group: Path
) -> None:
    acquaint(pods)
    apply(backend, space, OPEN)
    intrude(pods, group)
    got_out = {name for name in ATTEMPTS if sniffer.saw(name)}
    guarded = {"a_segment_of_no_connection"} if backend.name == "ebpf" else set()
    assert got_out >= set(ATTEMPTS) - guarded, "what an attempt sends is seen where it may be"
    sniffer.frames.clear()
    apply(backend, space, HELD)
    before = held.drops()
    intrude(pods, group)
    # The answer to a peer comes after all that was sent before.
    with pods.answering(pods.first, 9100, "application", mark=0):
        assert pods.request(pods.second, "10.78.0.1", 9100) == "application"
    assert [name for name in ATTEMPTS if sniffer.saw(name)] == []
    dropped = {reason: count - before[reason] for reason, count in held.drops().items()}
    assert dropped["udp"] >= 7
    assert dropped["icmp"] >= 4
    assert dropped["protocol"] >= 5
    assert dropped["tcp"] >= 4
    assert dropped["unreadable"] >= 2
    assert dropped["link"] == 2, dropped


def test_connections_to_what_annotations_exclude_are_captured(backend: PodCapture, pods: Wired, space: int) -> None:
    apply(backend, space, HELD)
    with pods.answering(pods.first, names.OUTBOUND_PORT, "tunnel"), pods.answering(pods.second, 3306, "outside"):
        for server in HERE:
            assert pods.request(pods.first, server, 3306) == "tunnel"
    with pods.answering_datagrams(pods.first, names.DNS_PORT, "tunnel", at="127.0.0.1"):
        assert pods.request_datagram(pods.first, "10.78.0.2", 53) == "tunnel"


@pytest.mark.parametrize("server", HERE)
def test_peers_are_answered(backend: PodCapture, pods: Wired, space: int, server: str) -> None:
    apply(backend, space, HELD)
    here = HERE[server]
    with pods.answering(pods.first, 9100, "application"):
        assert pods.request(pods.second, here, 9100) == "application"
    with pods.answering_datagrams(pods.first, 5000, "application", at=here):
        assert pods.request_datagram(pods.second, here, 5000) == "application"
    # Neighbours are looked for again, in both directions.
    for space_of, neighbour in ((pods.first, server), (pods.second, here)):
        shell(space_of, f"ip neigh del {neighbour} dev eth0")
    assert pinged(pods.second, here)


@pytest.mark.parametrize("server", HERE)
def test_the_tunnel_gets_out_and_its_connections_end_in_order(
    backend: PodCapture, held: EgressFilter, pods: Wired, space: int, server: str
) -> None:
    apply(backend, space, HELD)
    before = held.drops()["tcp"]
    with ExitStack() as stack:
        outside = stack.enter_context(pods.listen(pods.second, 15008))
        client = stack.enter_context(socket_of_tunnel(pods, server))
        client.connect((server, 15008))
        accepted = stack.enter_context(outside.accept()[0])
        client.sendall(b"carried")
        assert accepted.recv(100) == b"carried"
        # What is left of the connection is the kernel's, which answers what still comes.
        client.shutdown(socket.SHUT_WR)
        client.close()
        accepted.sendall(b"too late")
        accepted.settimeout(scaled(5))
        assert accepted.recv(100) == b""
        with pytest.raises(ConnectionError):
            while True:
                accepted.sendall(b"too late")
    assert held.drops()["tcp"] == before


def test_what_bypasses_the_pods_filter_is_dropped_by_the_host(
    tmp_path: Path, pods: Wired, space: int, group: Path
) -> None:
    """The second namespace is the host's."""
    filters = ebpf.egress_filter(host=pods.second)
    backend = backends.backend("nftables", tmp_path / "lock", egress=filters).pods
    acquaint(pods)
    apply(backend, space, OPEN)
    with pods.datagrams(pods.second, "0.0.0.0") as receiver:
        receiver.bind(("0.0.0.0", 9999))

        def received() -> bool:
            """Whether what bypasses the queue has come; the answer to a peer comes after it."""
            intrude(pods, group)
            with pods.answering(pods.first, 9100, "application"):
                assert pods.request(pods.second, "10.78.0.1", 9100) == "application"
            receiver.setblocking(False)
            found = []
            with suppress(BlockingIOError):
                while True:
                    found.append(receiver.recv(100))
            return trace("a_frame_that_bypasses_the_queue") in found

        assert received()
        apply(backend, space, HELD)
        assert backend.missing(sandbox(space), HELD) == ()
        before = filters.drops()["bypass"]
        assert not received()
        assert filters.drops()["bypass"] == before + 1
        # The tunnel's packets pass both.
        with pods.answering(pods.second, 15008, "peer"), socket_of_tunnel(pods) as client:
            client.connect(("10.78.0.2", 15008))
            assert client.recv(100) == b"peer"
        shell(pods.second, "tc qdisc del dev eth0 clsact")
        assert backend.missing(sandbox(space), HELD) == ("egress filter of the host's eth0",)
        backend.repair(sandbox(space), HELD)
        assert not received()
        apply(backend, space, OPEN)
        assert received()


@contextmanager
def answering(pods: Wired) -> Iterator[Callable[[], bool]]:
    """Begin a connection from the second pod, and say whether the first one's answer on it arrives."""
    with ExitStack() as stack:
        listener = stack.enter_context(pods.listen(pods.first, 9100))
        client = stack.enter_context(pods.connect(pods.second, "10.78.0.1", 9100))
        accepted = stack.enter_context(listener.accept()[0])

        def answers() -> bool:
            accepted.sendall(b"answer")
            return client.recv(100) == b"answer"

        yield answers


async def test_a_change_of_the_label_changes_a_running_pod(
    backend: PodCapture, pods: Wired, space: int, sniffer: Sniffer, group: Path
) -> None:
    acquaint(pods)
    apply(backend, space, OPEN)
    with answering(pods) as answers:
        assert answers()
        apply(backend, space, HELD)
        assert answers(), "a connection that a peer has begun before"
        intrude(pods, group)
        assert answers()
        assert not sniffer.saw("udp")
        apply(backend, space, OPEN)
        intrude(pods, group)
        await until(lambda: sniffer.saw("udp"))
        assert answers()


def test_the_filter_outlives_the_node_agent_and_its_rules(
    nftables: PodCapture, pins: Path, tmp_path: Path, pods: Wired, space: int, sniffer: Sniffer, group: Path
) -> None:
    acquaint(pods)
    apply(nftables, space, HELD)
    with answering(pods) as answers:
        shell(space, backends.FLUSH)
        intrude(pods, group)
        # Another process: it has the maps by their pins, and replaces the programs.
        following = backends.backend("nftables", tmp_path / "lock", egress=EgressFilter(pins)).pods
        apply(following, space, HELD)
        assert answers()
        assert [name for name in ATTEMPTS if sniffer.saw(name)] == []


def test_a_filter_that_another_process_removed_is_restored(nftables: PodCapture, pods: Wired, space: int) -> None:
    apply(nftables, space, HELD)
    assert nftables.missing(sandbox(space), HELD) == ()
    shell(space, "tc qdisc del dev eth0 clsact")
    assert "egress filter of eth0" in nftables.missing(sandbox(space), HELD)
    nftables.repair(sandbox(space), HELD)
    assert nftables.missing(sandbox(space), HELD) == ()


def test_a_link_that_comes_later_gets_the_filter(nftables: PodCapture, pods: Wired, space: int) -> None:
    apply(nftables, space, HELD)
    shell(space, "ip link add net1 type veth peer name net2 && ip link set net1 up && ip link set net2 up")
    assert {"egress filter of net1", "egress filter of net2"} <= set(nftables.missing(sandbox(space), HELD))
    nftables.repair(sandbox(space), HELD)
    assert nftables.missing(sandbox(space), HELD) == ()


def test_a_pod_that_leaves_the_mesh_has_no_filter(backend: PodCapture, pods: Wired, space: int) -> None:
    def filtered() -> set[str]:
        found = set()
        for way in egress.Way:
            with egress.programs("culvert-egress", priority=3, way=way) as programs:
                found |= programs.attached.keys()
        return found

    apply(backend, space, HELD)
    assert netns.run(space, filtered) == {"eth0"}
    apply(backend, space, PodPlan(mode=Mode.DRAIN))
    assert netns.run(space, filtered) == set()


def test_where_no_pod_has_the_label_the_host_is_not_looked_at_for_others(tmp_path: Path, space: int) -> None:
    """The look costs each start of a pod the more time the more links the host has."""
    filters = EgressFilter(tmp_path / "never-made", host=tmp_path / "no-namespace")
    netns.run(space, filters.detach)


def test_a_pod_is_held_back_where_its_tunnel_cannot_be_told_from_others(
    tmp_path: Path, pods: Wired, space: int
) -> None:
    filters = ebpf.egress_filter()
    filters.greet(1)  # process 1 is in the root of the hierarchy here
    backend = backends.backend("nftables", tmp_path / "lock", egress=filters).pods
    backend.prepare(sandbox(space))
    with pytest.raises(OSError, match=r"culvert\.io/egress: ztunnel runs in the root of the unified cgroup hierarchy"):
        backend.apply(sandbox(space), HELD)


def test_without_a_folder_for_its_maps_a_pod_is_held_back(tmp_path: Path, pods: Wired, space: int) -> None:
    backend = backends.backend("nftables", tmp_path / "lock").pods
    backend.prepare(sandbox(space))
    with pytest.raises(OSError, match=r"culvert\.io/egress: no folder in a BPF file system"):
        backend.apply(sandbox(space), HELD)
