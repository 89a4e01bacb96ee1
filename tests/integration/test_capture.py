"""Capture by each backend in the real kernel: plans are applied, idempotently, and other programs' rules stay."""

import itertools
import re
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from ipaddress import ip_interface
from pathlib import Path
from typing import TypeVar

import pytest

from meshapi import names
from meshkit.linux import ipsets, links, netns, sockets
from nodeagent.capture.annotations import plan_pod
from nodeagent.capture.choice import NoBackend, Wanted, _retired, choose
from nodeagent.capture.guard import Guard
from nodeagent.capture.plan import Mode, PodPlan
from nodeagent.capture.pod import PodCapture
from nodeagent.enrolment import takeover
from nodeagent.enrolment.takeover import Takeover
from tests.support import backends, ebpf
from tests.support.backends import sandbox
from tests.support.wired import Wired, shell
from tests.unit.nodeagent.test_rules import PODS

pytestmark = pytest.mark.root

T = TypeVar("T")
DUMPS = ("nft list ruleset", "iptables-legacy-save", "ip6tables-legacy-save", "ip rule", "ip -6 rule", "ipset list")


def state(space: int) -> list[str]:
    """Every rule of every kind; comments, counters and the kernel's own chains left out."""
    lines = (line for dump in DUMPS for line in shell(space, dump).splitlines() if line[:1] not in "#:")
    return sorted(re.sub(r"packets \d+ bytes \d+", "", line) for line in lines)


@pytest.mark.parametrize("scenario", PODS)
def test_a_plan_is_applied_and_applying_it_twice_changes_nothing(
    backend: PodCapture, space: int, scenario: str
) -> None:
    backend.prepare(sandbox(space))
    backend.apply(sandbox(space), PODS[scenario])
    assert backend.missing(sandbox(space), PODS[scenario]) == ()
    before = state(space)
    backend.prepare(sandbox(space))
    backend.apply(sandbox(space), PODS[scenario])
    assert backend.missing(sandbox(space), PODS[scenario]) == ()
    assert state(space) == before
    assert backend.present(sandbox(space)) is (PODS[scenario].mode is not Mode.NONE)


def test_every_plan_follows_every_other_without_a_trace(backend: PodCapture, space: int) -> None:
    for before in PODS.values():
        for after in (PODS["excluded"], PodPlan(), PODS["drain"]):
            backend.prepare(sandbox(space))
            backend.apply(sandbox(space), before)
            backend.prepare(sandbox(space))
            backend.apply(sandbox(space), after)
            assert backend.missing(sandbox(space), after) == ()
    backend.apply(sandbox(space), PodPlan(mode=Mode.NONE))
    for dump in DUMPS:
        assert "culvert" not in shell(space, dump).lower()
    assert "0x111" not in shell(space, "ip rule; ip -6 rule")
    assert shell(space, "ip route show table all | grep 'table 100' || true") == ""


OTHERS = (
    "iptables-legacy -t nat -A OUTPUT -p tcp --dport 7 -j RETURN",
    "iptables-legacy -t mangle -A PREROUTING -j ACCEPT",
    "ip6tables-legacy -t nat -N theirs",
    "iptables-nft -t nat -A OUTPUT -p tcp --dport 7 -j RETURN",
    "nft add table inet theirs; nft add chain inet theirs c",
    "ip rule add fwmark 7 table 7 priority 7",
)


def test_rules_of_other_programs_stay(backend: PodCapture, space: int) -> None:
    for command in OTHERS:
        shell(space, command)
    before = state(space)
    backend.prepare(sandbox(space))
    for mode in Mode:
        backend.apply(sandbox(space), PodPlan(mode=mode))
        assert backend.missing(sandbox(space), PodPlan(mode=mode)) == (), "rules of other programs are ignored"
        assert not Counter(before) - Counter(state(space)), "no rule of another program is gone"


@pytest.mark.parametrize("command", [
    "nft flush ruleset; iptables-legacy -t nat -F; ip6tables-legacy -t nat -F",
    "iptables-legacy -t nat -F CULVERT_OUTPUT || iptables-nft -t nat -F CULVERT_OUTPUT "
    "|| nft flush chain inet culvert nat_output",
    "iptables-legacy -t mangle -D PREROUTING -j CULVERT_PRERT || iptables-nft -t mangle -D PREROUTING -j CULVERT_PRERT "
    "|| nft delete chain inet culvert mangle_prerouting",
    "ip rule del priority 32764",
    "ip -6 rule del priority 32764",
    "ip route flush table 100",
    "ip -6 route flush table 100",
])  # fmt: skip
def test_a_removed_part_of_the_rules_is_reported_missing(rules: PodCapture, space: int, command: str) -> None:
    backend = rules
    backend.prepare(sandbox(space))
    backend.apply(sandbox(space), PodPlan())
    shell(space, command)
    assert backend.missing(sandbox(space), PodPlan())
    backend.prepare(sandbox(space))
    backend.apply(sandbox(space), PodPlan())
    assert backend.missing(sandbox(space), PodPlan()) == ()


@pytest.mark.parametrize("sets", [True, False], ids=["sets", "no-sets"])
@pytest.mark.parametrize("name", backends.NAMES)
def test_probes_are_exempt_by_address_and_by_nothing_else(name: str, sets: bool, tmp_path: Path, pods: Wired) -> None:
    probes = backends.backend(name, tmp_path / "lock", sets=sets).probes
    host = pods.second
    probes.apply(host, {"10.78.0.1", "fd78::1"}, None)
    probes.apply(host, {"10.78.0.1", "10.78.0.9", "fd78::1"}, {"10.78.0.1", "fd78::1"})
    assert probes.missing(host, {"10.78.0.1", "10.78.0.9", "fd78::1"}) == ()
    assert probes.missing(host, {"10.78.0.1", "fd78::1"})
    shell(pods.first, f"ip route add {names.PROBE_SOURCE_V4} via 10.78.0.2")
    shell(pods.first, f"ip -6 route add {names.PROBE_SOURCE_V6} via fd78::2")
    assert seen_from(pods, "10.78.0.1") == names.PROBE_SOURCE_V4
    assert seen_from(pods, "fd78::1") == names.PROBE_SOURCE_V6
    probes.apply(host, {"10.78.0.9"}, {"10.78.0.1", "10.78.0.9", "fd78::1"})
    assert seen_from(pods, "10.78.0.1") == "10.78.0.2"
    shell(host, "nft flush ruleset; iptables-legacy -t nat -F")
    assert probes.missing(host, {"10.78.0.9"})
    probes.apply(host, {"10.78.0.9"}, None)
    assert probes.missing(host, {"10.78.0.9"}) == ()
    probes.remove(host)
    probes.remove(host)
    for dump in DUMPS:
        assert "culvert" not in shell(host, dump).lower()


def seen_from(pods: Wired, server: str) -> str:
    """The address that a server in the first namespace sees of a client in the second."""
    with ExitStack() as stack:
        listener = stack.enter_context(pods.listen(pods.first, 8080, server))
        client = stack.enter_context(pods.connect(pods.second, server, 8080))
        accepted, peer = listener.accept()
        accepted.close()
        assert client.getpeername()[0] == server
        return str(peer[0])


@pytest.mark.parametrize(("before", "after"), list(itertools.permutations(backends.NAMES, 2)))
def test_a_new_backend_removes_the_old_backends_rules_after_applying_its_own(
    before: str, after: str, tmp_path: Path, space: int, pods: Wired
) -> None:
    old_backend, new_backend = (backends.backend(name, tmp_path / "lock") for name in (before, after))
    old, new = old_backend.pods, new_backend.pods
    old.prepare(sandbox(space))
    old.apply(sandbox(space), PodPlan())
    old_backend.probes.apply(pods.second, {"10.78.0.1"}, None)
    take_over = Takeover(new_backend, [old_backend], pods.second)
    assert take_over.has_rules(sandbox(space))
    take_over.take_over(sandbox(space), PodPlan())
    new_backend.probes.apply(pods.second, {"10.78.0.1"}, None)
    take_over.take_over_probes()
    assert not old.present(sandbox(space))
    assert new.missing(sandbox(space), PodPlan()) == ()
    assert new_backend.probes.missing(pods.second, {"10.78.0.1"}) == ()
    assert not ipset_left(pods.second) or after != "nftables"


def ipset_left(space: Path) -> bool:
    return netns.run(space, lambda: ipsets.members("culvert-probes-v4")) is not None


OUT, IN = "annotation of the client", "annotation of the server"


@pytest.mark.parametrize(("annotations", "port", "answers"), [
    pytest.param({}, 8080, "tunnel", id="captured"),
    pytest.param({"excludeOutboundPorts": "8080"}, 8080, "application", id="excluded port"),
    pytest.param({"excludeOutboundPorts": "8080"}, 8081, "tunnel", id="port beside an excluded one"),
    pytest.param({"excludeOutboundIPRanges": "10.78.0.0/24,fd78::/64"}, 8080, "application", id="excluded range"),
    pytest.param({"excludeOutboundIPRanges": "10.79.0.0/24,fd79::/64"}, 8080, "tunnel", id="other range excluded"),
    pytest.param({"includeOutboundIPRanges": "10.79.0.0/24,fd79::/64"}, 8080, "application", id="other range included"),
    pytest.param({"includeOutboundIPRanges": "10.78.0.0/24,fd78::/64"}, 8080, "tunnel", id="range included"),
    pytest.param({"includeOutboundIPRanges": "", "includeOutboundPorts": "8080"}, 8080, "tunnel", id="port included"),
    pytest.param({"includeOutboundIPRanges": "", "includeOutboundPorts": "80"}, 8080, "application", id="only a port"),
    pytest.param({"excludeInterfaces": "eth0"}, 8080, "application", id="excluded interface"),
])  # fmt: skip
@pytest.mark.parametrize("server", ["10.78.0.2", "fd78::2"])
def test_which_listener_gets_a_connection_from_a_captured_pod(
    backend: PodCapture, pods: Wired, space: int, annotations: dict[str, str], port: int, answers: str, server: str
) -> None:
    plan = plan_pod({f"traffic.sidecar.istio.io/{name}": value for name, value in annotations.items()})
    assert plan.faults == ()
    backend.prepare(sandbox(space))
    backend.apply(sandbox(space), plan.plan)
    with (
        pods.answering(pods.first, names.OUTBOUND_PORT, "tunnel"),
        pods.answering(pods.second, port, "application"),
    ):
        assert pods.request(pods.first, server, port) == answers


@pytest.mark.parametrize(("annotations", "port", "answers"), [
    pytest.param({}, 8080, "tunnel", id="captured"),
    pytest.param({}, names.HBONE_PORT, "application", id="the tunnel's own port"),
    pytest.param({"excludeInboundPorts": "8080"}, 8080, "application", id="excluded port"),
    pytest.param({"excludeInboundPorts": "8080"}, 8081, "tunnel", id="port beside an excluded one"),
    pytest.param({"includeInboundPorts": "8080"}, 8080, "tunnel", id="included port"),
    pytest.param({"includeInboundPorts": "8080"}, 8081, "application", id="port beside an included one"),
    pytest.param({"includeInboundPorts": ""}, 8080, "application", id="nothing included"),
    pytest.param({"excludeInterfaces": "eth0"}, 8080, "application", id="excluded interface"),
])  # fmt: skip
@pytest.mark.parametrize("server", ["10.78.0.1", "fd78::1"])
def test_which_listener_gets_a_connection_to_a_captured_pod(
    backend: PodCapture, pods: Wired, space: int, annotations: dict[str, str], port: int, answers: str, server: str
) -> None:
    plan = plan_pod({f"traffic.sidecar.istio.io/{name}": value for name, value in annotations.items()})
    backend.prepare(sandbox(space))
    backend.apply(sandbox(space), plan.plan)
    with (
        pods.answering(pods.first, names.INBOUND_PLAINTEXT_PORT, "tunnel", mark=names.TUNNEL_MARK),
        pods.answering(pods.first, port, "application"),
    ):
        assert pods.request(pods.second, server, port) == answers


@pytest.mark.parametrize("here", [0, 1], ids=["ipv4", "ipv6"])
def test_without_a_tunnel_connections_are_refused_at_once(
    backend: PodCapture, pods: Wired, space: int, here: int
) -> None:
    backend.prepare(sandbox(space))
    backend.apply(sandbox(space), PodPlan())
    with pods.answering(pods.first, 8080, "application"), pods.answering(pods.second, 8080, "application"):
        for source, address in ((pods.first, ("10.78.0.2", "fd78::2")), (pods.second, ("10.78.0.1", "fd78::1"))):
            for port in (8080, names.HBONE_PORT):
                with pytest.raises(ConnectionRefusedError):
                    pods.connect(source, address[here], port)


@pytest.mark.parametrize("server", ["10.78.0.1", "fd78::1"])
def test_connections_of_a_virtual_machine_in_the_pod_are_captured_as_outbound(
    backend: PodCapture, pods: Wired, space: int, server: str
) -> None:
    backend.prepare(sandbox(space))
    backend.apply(sandbox(space), plan_pod({"istio.io/reroute-virtual-interfaces": "eth0"}).plan)
    with pods.answering(pods.first, names.OUTBOUND_PORT, "outbound"):
        assert pods.request(pods.second, server, 8080) == "outbound"


@pytest.mark.parametrize("server", ["10.78.0.2", "fd78::2"])
def test_dns_is_redirected_to_the_tunnel_except_for_its_own_queries(
    backend: PodCapture, pods: Wired, space: int, server: str
) -> None:
    loopback = "::1" if ":" in server else "127.0.0.1"
    backend.prepare(sandbox(space))
    backend.apply(sandbox(space), PodPlan(dns=True))
    with (
        pods.answering(pods.first, names.DNS_PORT, "tunnel", mark=names.TUNNEL_MARK),
        # At the address that the kernel redirects to: the client would ignore an answer from any other.
        pods.answering_datagrams(pods.first, names.DNS_PORT, "tunnel", at=loopback, mark=names.TUNNEL_MARK),
        pods.answering_datagrams(pods.second, 53, "server"),
    ):
        assert pods.request(pods.first, server, 53) == "tunnel"
        assert pods.request_datagram(pods.first, server, 53) == "tunnel"
        # The same source port as the application's, at the same time: the zone keeps the two apart.
        with pods.datagrams(pods.first, server) as application:
            application.bind(("", 40053))
            assert pods.exchange(application, server, 53) == "tunnel"
            with pods.datagrams(pods.first, server, mark=names.TUNNEL_MARK) as own:
                own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                assert pods.exchange(own, server, 53) == "server"
            assert pods.exchange(application, server, 53) == "tunnel"


def test_uncaptured_open_connections_are_counted(pods: Wired, space: int) -> None:
    with ExitStack() as stack:
        stack.enter_context(pods.answering(pods.second, 8080, "application"))
        stack.enter_context(pods.answering(pods.first, 8081, "application"))
        for server in ("10.78.0.2", "fd78::2"):
            stack.enter_context(pods.connect(pods.first, server, 8080))
        stack.enter_context(pods.connect(pods.second, "10.78.0.1", 8081))
        stack.enter_context(pods.connect(pods.first, "127.0.0.1", 8081))
        assert takeover.outside(sandbox(space)) == 3
        assert {one.remote[1] for one in netns.run(space, lambda: sockets.outside({8081}))} == {8080}


@pytest.mark.parametrize(
    ("wanted", "name"),
    [("auto", "ebpf"), ("nftables", "nftables"), ("iptables", "iptables"), ("ebpf", "ebpf")],
)
def test_the_backend_is_chosen_by_probing(wanted: str, name: str, tmp_path: Path) -> None:
    choice = choose(Wanted(wanted), tmp_path / "lock", pins=ebpf.file_system() / "chosen")
    if choice.ebpf is not None:
        assert choice.ebpf.node.missing() == ()
        choice.ebpf.node.uninstall()
    assert choice.backend.pods.name == name
    assert choice.backend not in choice.others
    assert {other.pods.name for other in choice.others} >= {"nftables", "iptables"} - {name}


@pytest.mark.parametrize("by_hooks", [Wanted.EBPF])
def test_where_programs_of_others_are_on_its_hooks_ebpf_is_not_chosen_unasked(
    by_hooks: Wanted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodeagent.capture.ebpf.trial.programs_at", lambda _: [("connect4", "theirs")])
    pins = ebpf.file_system() / "chosen"
    choice = choose(Wanted.AUTO, tmp_path / "lock", pins=pins)
    assert choice.backend.pods.name == "nftables"
    assert "programs of others are on the same hooks: theirs (connect4)" in choice.why
    asked = choose(by_hooks, tmp_path / "lock", pins=pins)
    assert asked.ebpf is not None
    asked.ebpf.node.uninstall()


@pytest.mark.parametrize("by_hooks", [Wanted.EBPF])
def test_without_the_file_system_of_bpf_rules_are_chosen_and_the_reason_is_said(
    by_hooks: Wanted, tmp_path: Path
) -> None:
    choice = choose(Wanted.AUTO, tmp_path / "lock", pins=tmp_path / "pins")
    assert choice.backend.pods.name == "nftables"
    assert choice.why.startswith("ebpf: ")
    assert "mount -t bpf" in choice.why
    with pytest.raises(NoBackend, match=r"capture_backend ebpf: .*mount -t bpf"):
        choose(by_hooks, tmp_path / "lock", pins=tmp_path / "pins")


def test_hosts_whose_files_cannot_be_seen_have_no_hooks_of_an_earlier_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", forbidden)
    assert not _retired(tmp_path / "culvert", Guard())


def test_hooks_of_an_earlier_agent_go_when_rules_are_chosen(tmp_path: Path, pods: Wired, space: int) -> None:
    pins = ebpf.file_system() / "chosen"
    before = choose(Wanted.EBPF, tmp_path / "lock", pins=pins)
    before.backend.pods.prepare(sandbox(space))
    before.backend.pods.apply(sandbox(space), PodPlan())
    after = choose(Wanted.NFTABLES, tmp_path / "lock", pins=pins)
    take_over = Takeover(after.backend, after.others, pods.second)
    assert take_over.has_rules(sandbox(space))
    after.backend.pods.prepare(sandbox(space))
    take_over.take_over(sandbox(space), PodPlan())
    after.backend.probes.apply(pods.second, {"10.78.0.1"}, None)
    take_over.take_over_probes()
    assert not pins.exists()
    assert after.backend.probes.missing(pods.second, {"10.78.0.1"}) == ()
    with pods.answering(pods.first, names.OUTBOUND_PORT, "tunnel"):
        assert pods.request(pods.first, "10.78.0.2", 8080) == "tunnel"
    assert "culvert-flows" not in shell(space, "tc filter show dev eth0 egress; tc filter show dev lo ingress")


def test_without_nftables_in_the_kernel_iptables_is_chosen_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse("nodeagent.capture.choice.nftables_rules.pod_rules", monkeypatch)
    choice = choose(Wanted.AUTO, tmp_path / "lock")
    assert choice.backend.pods.name == "iptables"
    assert "nftables: " in choice.why
    with pytest.raises(NoBackend, match=r"capture_backend nftables: nftables: .*; load nf_tables"):
        choose(Wanted.NFTABLES, tmp_path / "lock")


def test_without_iptables_in_the_kernel_the_error_names_the_modules_to_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unloaded(version: int) -> None:
        raise OSError("can't initialize nat")

    for way in ("legacy", "restore"):
        monkeypatch.setattr(f"nodeagent.capture.choice.{way}.probe", unloaded)
    with pytest.raises(NoBackend, match=r"can't initialize nat; load ip_tables and ip6_tables; .*; load nf_tables and"):
        choose(Wanted.IPTABLES, tmp_path / "lock")


def refuse(function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a function return rules that any kernel refuses, as one without the feature would."""
    nonsense: Callable[..., str] = lambda *_, **__: "add rule inet nothing nowhere redirect\n"  # noqa: E731
    monkeypatch.setattr(function, nonsense)


def test_names_of_interfaces_are_matched_whole(backend: PodCapture, pods: Wired, space: int) -> None:
    """python-iptables would compare one bit of each byte of an IPv6 interface's name."""
    netns.run(pods.first, lambda: links.add_address("lo", ip_interface("fd78:1::1/128")))
    plan = plan_pod({"traffic.sidecar.istio.io/excludeInterfaces": "gth2"}).plan
    backend.prepare(sandbox(space))
    backend.apply(sandbox(space), plan)
    with (
        pods.answering(pods.first, names.OUTBOUND_PORT, "tunnel"),
        pods.answering(pods.second, 8080, "application"),
    ):
        assert pods.request(pods.first, "fd78::2", 8080) == "tunnel"
