"""The life of the hooks: agents that follow each other, that are two, that go; tunnels and pods that come and go."""

import json
import os
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from meshapi import names
from meshkit.linux import cgroups, netns
from nodeagent.capture.annotations import plan_pod
from nodeagent.capture.backend import CaptureBackend
from nodeagent.capture.ebpf.node import EbpfNode
from nodeagent.capture.ebpf.pod import EbpfCapture
from nodeagent.capture.ebpf.rules import PodRules
from nodeagent.capture.plan import Mode, PodPlan
from nodeagent.capture.pod_network import PodNetwork
from nodeagent.enrolment.takeover import Takeover
from tests.support import backends, ebpf
from tests.support.backends import sandbox
from tests.support.lab import ROOT
from tests.support.waiting import until
from tests.support.wired import Wired, wired

pytestmark = pytest.mark.root

PLAN = PodPlan()


@pytest.fixture
def pins() -> Path:
    return ebpf.file_system() / uuid.uuid4().hex[:8]


def agent(pins: Path) -> tuple[EbpfNode, EbpfCapture]:
    """What a node agent does at its start."""
    node = ebpf.node(pins)
    return node, EbpfCapture(node, PodNetwork())


def enrol(capture: EbpfCapture, space: int, plan: PodPlan = PLAN) -> None:
    capture.prepare(sandbox(space))
    capture.apply(sandbox(space), plan)


def loaded(kind: str) -> set[int]:
    """Ids of all programs or maps of the machine."""
    return {one["id"] for one in bpftool(kind, "show")}


def pinned(pins: Path) -> tuple[set[int], set[int]]:
    """Ids of the programs and the maps that an agent has pinned."""
    links = [path for folder in ("hooks", "pods", "tunnels") for path in (pins / "v1" / folder).rglob("*")]
    programs = {bpftool("link", "show", "pinned", str(path))["prog_id"] for path in links if path.is_file()}
    maps = {bpftool("map", "show", "pinned", str(path))["id"] for path in (pins / "v1").glob("cv_*")}
    return programs, maps


def bpftool(*words: str) -> Any:
    return json.loads(subprocess.run(["bpftool", "-j", *words], capture_output=True, check=True).stdout or "[]")


@contextmanager
def tunnel(pods: Wired) -> Iterator[None]:
    """Answer every connection in the tunnel's place, and close it: there are many."""
    listener = pods.listen(pods.first, names.OUTBOUND_PORT)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, names.TUNNEL_MARK)
    listener.settimeout(None)

    def serve() -> None:
        while True:
            try:
                one, _ = listener.accept()
            except OSError:
                return
            with one:
                one.sendall(b"tunnel")

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


@contextmanager
def connecting(pods: Wired) -> Iterator[list[str]]:
    """Open connection after connection from the first namespace; the list gets every answer, or error."""
    answers: list[str] = []
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            try:
                answers.append(pods.request(pods.first, "10.78.0.2", 8080))
            except OSError as error:
                answers.append(repr(error))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield answers
    finally:
        ended.set()
        thread.join()


async def test_a_new_agent_takes_over_hooks_and_plans_and_no_connection_notices(
    pins: Path, pods: Wired, space: int
) -> None:
    node, capture = agent(pins)
    enrol(capture, space)
    with (
        tunnel(pods),
        pods.answering(pods.second, 8080, "application"),
        connecting(pods) as answers,
    ):
        await until(lambda: len(answers) > 20)
        for _ in range(3):
            before = len(answers)
            node, capture = agent(pins)
            assert capture.present(sandbox(space)), "an earlier agent's plan is known"
            assert capture.missing(sandbox(space), PLAN) == ()
            enrol(capture, space)
            await until(lambda before=before: len(answers) > before + 20)
    assert set(answers) == {"tunnel"}
    assert node.counts()["outbound"] == len(answers), "counted over all agents' lives"


def test_after_the_agent_is_killed_connections_are_captured_all_the_same(pins: Path, pods: Wired, space: int) -> None:
    code = (
        "import sys, os; from pathlib import Path; from tests.integration.test_ebpf_life import *\n"
        "node, capture = agent(Path(sys.argv[1])); enrol(capture, os.open(sys.argv[2], os.O_RDONLY)); os._exit(9)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(pins), str(pods.first)], check=False, cwd=ROOT)
    assert ran.returncode == 9
    with pods.answering(pods.first, names.OUTBOUND_PORT, "tunnel", mark=names.TUNNEL_MARK):
        assert pods.request(pods.first, "10.78.0.2", 8080) == "tunnel"
    with pods.answering(pods.first, names.INBOUND_PLAINTEXT_PORT, "inbound", mark=names.TUNNEL_MARK):
        assert pods.request(pods.second, "10.78.0.1", 8080) == "inbound"
    agent(pins)  # so that its hooks are removed


async def test_uninstallation_leaves_no_program_no_map_and_no_pin(pins: Path, pods: Wired, space: int) -> None:
    node, capture = agent(pins)
    enrol(capture, space)
    programs, maps = pinned(pins)
    assert len(programs) == 11
    assert programs <= loaded("prog")
    assert maps <= loaded("map")
    capture.apply(sandbox(space), PodPlan(mode=Mode.NONE))
    node.uninstall()
    del node, capture
    await until(lambda: not (programs & loaded("prog") or maps & loaded("map")))
    assert not pins.exists()
    with pods.answering(pods.second, 8080, "application"):
        assert pods.request(pods.first, "10.78.0.2", 8080) == "application"


def test_two_agents_on_one_machine_do_not_meet(pins: Path, pods: Wired, space: int) -> None:
    one_node, one = agent(pins)
    with wired() as others:
        theirs = os.open(others.first, os.O_RDONLY)
        try:
            other_node, other = agent(pins.with_name(f"{pins.name}-other"))
            enrol(one, space)
            enrol(other, theirs)
            assert not one.present(sandbox(theirs))
            assert not other.present(sandbox(space))
            for pair in (pods, others):
                with pair.answering(pair.first, names.OUTBOUND_PORT, "tunnel", mark=names.TUNNEL_MARK):
                    assert pair.request(pair.first, "10.78.0.2", 8080) == "tunnel"
            assert one_node.counts()["outbound"] == other_node.counts()["outbound"] == 1
            one.apply(sandbox(space), PodPlan(mode=Mode.NONE))
            one_node.uninstall()
            with others.answering(others.first, names.OUTBOUND_PORT, "tunnel", mark=names.TUNNEL_MARK):
                assert others.request(others.first, "10.78.0.2", 8080) == "tunnel"
        finally:
            os.close(theirs)


def test_a_tunnel_that_listened_before_the_hooks_is_found(pins: Path, pods: Wired, space: int) -> None:
    with pods.answering(pods.first, names.INBOUND_PLAINTEXT_PORT, "tunnel", mark=names.TUNNEL_MARK):
        _, capture = agent(pins)
        enrol(capture, space)
        for server in ("10.78.0.1", "fd78::1"):
            assert pods.request(pods.second, server, 8080) == "tunnel"


def test_a_new_tunnel_serves_as_soon_as_it_listens_beside_an_old_one(pins: Path, pods: Wired, space: int) -> None:
    _, capture = agent(pins)
    enrol(capture, space)

    def shared() -> socket.socket:
        def listen() -> socket.socket:
            made = socket.socket()
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, names.TUNNEL_MARK)
            made.bind(("", names.INBOUND_PLAINTEXT_PORT))
            made.listen()
            return made

        return netns.run(pods.first, listen)

    for _ in range(20):  # more than there are slots
        old, new = shared(), shared()
        old.close()
        with new, pods.connect(pods.second, "10.78.0.1", 8080):
            new.settimeout(5)
            new.accept()[0].close()


async def test_what_a_pod_has_left_is_removed_when_its_namespace_has_gone(pins: Path) -> None:
    _, capture = agent(pins)
    with wired() as pods:
        space = os.open(pods.first, os.O_RDONLY)
        enrol(capture, space)
        os.close(space)
        assert len(list((pins / "v1" / "pods").iterdir())) == 1

    def is_empty_for_the_next_agent() -> bool:
        agent(pins)
        return not list((pins / "v1" / "pods").iterdir())

    await until(is_empty_for_the_next_agent)  # the kernel takes a namespace down some time after its last user
    node, _ = agent(pins)
    assert not bpftool("map", "dump", "pinned", str(pins / "v1" / "cv_ranges"))
    assert node.missing() == ()


def test_pods_that_end_leave_room_for_others_while_the_agent_runs(pins: Path, pods: Wired, space: int) -> None:
    _, capture = agent(pins)
    for _ in range(3):
        with wired() as ended:
            descriptor = os.open(ended.first, os.O_RDONLY)
            enrol(capture, descriptor)
            os.close(descriptor)
    enrol(capture, space)
    [left] = (pins / "v1" / "pods").iterdir()
    assert left.name == str(netns.run(space, netns.cookie))
    assert len(bpftool("map", "dump", "pinned", str(pins / "v1" / "cv_pods"))) == 1


async def test_the_hooks_of_a_tunnel_that_has_gone_are_removed(pins: Path) -> None:
    node, _ = agent(pins)
    name = f"culvert-test-{uuid.uuid4().hex[:8]}"
    (ebpf.root() / name).mkdir()
    node.attach_tunnel(ebpf.root() / name)
    assert len(list((pins / "v1" / "tunnels").iterdir())) == 2
    cgroups.remove(name)

    def is_removed() -> bool:  # the kernel detaches from a cgroup some time after its removal
        node.attach_tunnel(ebpf.root())
        return len(list((pins / "v1" / "tunnels").iterdir())) == 1

    await until(is_removed)


def test_when_all_pins_are_removed_the_next_agent_captures_with_new_maps(pins: Path, pods: Wired, space: int) -> None:
    _, capture = agent(pins)
    enrol(capture, space)
    subprocess.run(["rm", "-r", pins], check=True)
    _, capture = agent(pins)
    assert not capture.present(sandbox(space))
    enrol(capture, space)
    assert capture.missing(sandbox(space), PLAN) == ()
    excluded = {"traffic.sidecar.istio.io/excludeOutboundPorts": "8081"}
    capture.apply(sandbox(space), plan_pod(excluded).plan)
    with (
        pods.answering(pods.first, names.OUTBOUND_PORT, "tunnel", mark=names.TUNNEL_MARK),
        pods.answering(pods.second, 8081, "application"),
    ):
        assert pods.request(pods.first, "10.78.0.2", 8080) == "tunnel"
        assert pods.request(pods.first, "10.78.0.2", 8081) == "application", "the guard asks the new maps"


def test_a_pod_too_many_is_refused_and_the_others_stay(pins: Path, pods: Wired, space: int) -> None:
    node, capture = agent(pins)
    enrol(capture, space)
    rules = PodRules(("capture",), (ip_address("10.0.0.1"),), (), (), ())
    with pytest.raises(OSError, match="Argument list too long"):
        for cookie in range(1 << 40, (1 << 40) + 5000):
            node.plan(cookie, rules)
    assert capture.missing(sandbox(space), PLAN) == ()
    with pods.answering(pods.first, names.OUTBOUND_PORT, "tunnel", mark=names.TUNNEL_MARK):
        assert pods.request(pods.first, "10.78.0.2", 8080) == "tunnel"


def test_outside_of_a_bpf_file_system_the_error_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=str(tmp_path)):
        EbpfNode(tmp_path, ebpf.root())


async def test_connections_that_rules_have_captured_go_on_until_they_end(
    pins: Path, pods: Wired, space: int, tmp_path: Path
) -> None:
    old = backends.backend("nftables", tmp_path / "lock")
    old.pods.prepare(sandbox(space))
    old.pods.apply(sandbox(space), PLAN)
    with (
        pods.listen(pods.first, names.OUTBOUND_PORT) as listener,
        pods.connect(pods.first, "10.78.0.2", 8080) as client,
    ):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, names.TUNNEL_MARK)
        accepted, _ = listener.accept()
        with accepted:
            _, capture = agent(pins)
            capture.prepare(sandbox(space))
            Takeover(CaptureBackend(capture, old.probes), [old], pods.second).take_over(sandbox(space), PLAN)
            for here, there in ((client, accepted), (accepted, client)):
                here.sendall(b"goes on")
                there.settimeout(5)
                assert there.recv(100) == b"goes on"
            assert old.pods.present(sandbox(space))
            assert capture.missing(sandbox(space), PLAN) == ()

    def is_gone() -> bool:
        return capture.missing(sandbox(space), PLAN) == () and not old.pods.present(sandbox(space))

    await until(is_gone, within_s=10)


async def test_connections_that_need_no_rule_do_not_keep_those_of_another_backend(
    pins: Path, pods: Wired, space: int, tmp_path: Path
) -> None:
    """Idle tunnels between nodes, and what was opened after the change: of both, a busy pod always has some."""
    old = backends.backend("nftables", tmp_path / "lock")
    old.pods.prepare(sandbox(space))
    old.pods.apply(sandbox(space), PLAN)
    _, capture = agent(pins)
    takeover = Takeover(CaptureBackend(capture, old.probes), [old], pods.second)

    def is_gone() -> bool:
        return capture.missing(sandbox(space), PLAN) == () and not old.pods.present(sandbox(space))

    with (
        pods.answering(pods.first, names.HBONE_PORT, "tunnel"),
        pods.connect(pods.second, "10.78.0.1", names.HBONE_PORT),
        pods.listen(pods.first, names.OUTBOUND_PORT) as listener,
    ):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, names.TUNNEL_MARK)
        with pods.connect(pods.first, "10.78.0.2", 8080), listener.accept()[0]:
            capture.prepare(sandbox(space))
            takeover.take_over(sandbox(space), PLAN)
            after = pods.connect(pods.first, "10.78.0.2", 8080)
            assert old.pods.present(sandbox(space)), "a connection needs its rules"
        with after, listener.accept()[0] as accepted:
            await until(is_gone, within_s=10)
            accepted.sendall(b"tunnel")
            assert after.recv(100) == b"tunnel"
