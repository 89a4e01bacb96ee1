"""The order in which a pod is enrolled and unenrolled, and the handling of a failed step."""

import asyncio
import contextlib
import os
from dataclasses import replace
from pathlib import Path

import pytest

from meshapi.identity import SpiffeId
from nodeagent.capture.plan import Mode
from nodeagent.discovery.enrolment import PodInfo
from nodeagent.enrolment.state import State
from nodeagent.zds.server import NotConnected
from tests.support.enrolling import ENABLED, POD, World


@pytest.fixture
async def world():
    return World()


def descriptors() -> int:
    """Namespaces that this process holds open; other tests' libraries open and close things of their own meanwhile."""
    held = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            held += str(descriptor.readlink()).startswith("net:")
    return held


async def test_listeners_come_before_rules_and_rules_before_the_announcement(world: World) -> None:
    await world.settle()
    assert set(world.steps[:3]) == {"listeners", "prepared", "probes 10.0.0.1"}
    assert world.steps[3:] == ["rules capture", "other rules removed", "announce enabled"]
    assert world.certificates == [SpiffeId("cluster.local", "shop", "web")]
    world.steps.clear()
    await world.settle()
    assert world.steps == [], "twice is once"


async def test_unenrolment_is_the_reverse_and_keeps_the_rules_of_open_connections(world: World) -> None:
    await world.settle()
    world.steps.clear()
    world.labels = {}
    await world.settle()
    assert world.steps == ["announce None", "rules drain", "probes ", "listeners withdrawn"]
    assert world.certificates == []


async def test_a_pod_that_has_ended_is_forgotten_without_touching_its_namespace(world: World) -> None:
    await world.settle()
    world.steps.clear()
    del world.pods[POD.uid]
    await world.settle()
    assert world.steps == ["probes ", "listeners withdrawn"]
    assert len(world.enrolled) == 0
    assert world.certificates == []


async def test_no_pod_is_captured_while_no_ztunnel_is_connected(world: World) -> None:
    world.connected = False
    world.controller.notice(POD.uid)
    async with asyncio.timeout(3):
        while not world.states.observe(POD.uid).failure or world.state is not State.WAITING:
            await asyncio.sleep(0.001)
    assert "rules capture" not in world.steps
    assert world.probes.exempt == frozenset()
    assert world.certificates == []
    world.connected = True
    await world.settle()
    assert world.steps[-3:] == ["rules capture", "other rules removed", "announce enabled"]


async def test_listeners_are_removed_when_the_rules_fail_and_both_are_retried(world: World) -> None:
    world.broken_rules = 1
    before = descriptors()
    await world.settle()
    assert "listeners withdrawn" in world.steps
    assert world.steps[-3:] == ["rules capture", "other rules removed", "announce enabled"]
    assert len(world.enrolled) == 1
    assert descriptors() == before + 1, "one namespace is held, for the captured pod"


async def test_a_new_pod_is_captured_before_its_sandbox_is_done_or_not_at_all(world: World) -> None:
    def namespace() -> int:
        return os.open("/proc/self/ns/net", os.O_RDONLY)

    await world.controller.add(POD, namespace(), ("10.0.0.9",))
    assert world.steps[-1] == "rules capture"
    assert world.enrolled.addresses() == {"10.0.0.9"}
    other = replace(POD, uid="o", name="other")
    assert world.controller.wants(other)
    assert not world.controller.wants(replace(other, host_network=True))
    world.connected = False
    with pytest.raises(NotConnected):
        await world.controller.add(other, namespace(), ("10.0.0.8",))
    assert world.enrolled.find("o") is None


async def test_captured_pods_are_adopted_after_a_restart(world: World) -> None:
    world.pods[POD.uid] = replace(POD, annotations=ENABLED)
    await world.controller.adopt()
    assert world.steps == [
        "prepared", "rules capture", "other rules removed", "probes 10.0.0.1", "other probes removed",
    ]  # fmt: skip
    assert list(world.enrolled) == [POD.uid]


async def test_a_label_that_went_while_the_agent_was_away_is_noticed(world: World) -> None:
    world.pods[POD.uid] = replace(POD, annotations=ENABLED)
    world.labels = {}
    await world.controller.adopt()
    await world.settle()
    assert world.steps == [
        "probes ", "other probes removed", "announce None", "prepared", "rules drain", "other rules removed",
    ]  # fmt: skip


async def test_a_draining_pod_of_an_earlier_agent_is_found_by_its_rules(world: World) -> None:
    world.found = True
    world.labels = {}
    await world.controller.adopt()
    assert world.steps[:3] == ["prepared", "rules drain", "other rules removed"]
    assert len(world.enrolled) == 0


async def test_pods_without_rules_are_left_alone_at_the_start(world: World) -> None:
    world.labels = {}
    before = descriptors()
    await world.controller.adopt()
    assert world.steps == ["probes ", "other probes removed"]
    assert descriptors() == before


async def test_a_changed_annotation_changes_the_rules_of_a_captured_pod(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    await world.settle()
    world.steps.clear()
    excluded = {"traffic.sidecar.istio.io/excludeOutboundPorts": "3306"}
    world.pods[POD.uid] = replace(POD, annotations=ENABLED | excluded)
    await world.settle()
    assert world.steps == ["rules capture"]
    captured = world.enrolled.find(POD.uid)
    assert captured is not None
    assert captured.plan.outbound.never_ports == (3306,)

    wrong = {"traffic.sidecar.istio.io/excludeOutboundPorts": "mysql"}
    world.pods[POD.uid] = replace(POD, annotations=ENABLED | wrong)
    await world.settle()
    await world.settle()
    assert captured.plan.outbound.never_ports == (), "what cannot be read captures"
    logged = [line for line in "".join(capsys.readouterr()).splitlines() if "annotation is invalid" in line]
    assert len(logged) == 1, "once"
    assert all(word in logged[0] for word in ("shop/web", "excludeOutboundPorts", "mysql", "write numbers"))


@pytest.mark.parametrize("where", ["namespace", "pod"])
async def test_a_changed_egress_label_changes_the_plan_of_a_captured_pod(
    world: World, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    excluded = {"traffic.sidecar.istio.io/excludeOutboundPorts": "3306"}
    pod, of_namespace = replace(POD, annotations=ENABLED | excluded), dict(world.labels)
    world.pods[POD.uid] = pod
    await world.settle()
    captured = world.enrolled.find(POD.uid)
    assert captured is not None
    assert not captured.plan.registry_only
    for value, expected in (("registry-only", True), ("allow-any", False), ("typo", True), (None, False)):
        labels = {} if value is None else {"culvert.io/egress": value}
        if where == "namespace":
            world.labels = of_namespace | labels
        else:
            world.pods[POD.uid] = replace(pod, labels=labels)
        world.steps.clear()
        await world.settle()
        assert captured.plan.registry_only is expected
        assert captured.plan.outbound.never_ports == (() if expected else (3306,))
        assert world.steps == ["rules capture"]
    logged = [line for line in "".join(capsys.readouterr()).splitlines() if "annotations have no effect" in line]
    assert len(logged) == 2
    assert all(word in logged[0] for word in ("shop/web", "excludeOutboundPorts", "culvert.io/egress"))


async def test_a_pods_own_label_allows_nothing_that_its_namespace_forbids(world: World) -> None:
    world.labels["culvert.io/egress"] = "registry-only"
    world.pods[POD.uid] = replace(POD, labels={"culvert.io/egress": "allow-any"})
    await world.settle()
    captured = world.enrolled.find(POD.uid)
    assert captured is not None
    assert captured.plan.registry_only
    assert world.enrolled.held(POD.uid) is captured.planned


def test_the_modes_are_the_ones_that_the_order_speaks_of() -> None:
    assert [mode.value for mode in Mode] == ["capture", "drain", "none"]


async def test_the_certificate_of_a_ztunnel_that_is_a_workload_is_kept_without_capturing_its_pod(world: World) -> None:
    labels = {"app": "ztunnel", "networking.istio.io/tunnel": "http"}
    ztunnel = replace(POD, namespace="istio-system", name="ztunnel-x", service_account="ztunnel", labels=labels)
    identity = SpiffeId("cluster.local", "istio-system", "ztunnel")
    world.pods[POD.uid] = ztunnel
    for _ in range(2):
        await world.settle()
        assert world.certificates == [identity]
    assert world.steps == []
    # Two of them during an upgrade.
    world.pods["new"] = replace(ztunnel, uid="new")
    world.controller.notice("new")
    await world.settle()
    assert world.certificates == [identity, identity]
    del world.pods[POD.uid]
    await world.settle()
    assert world.certificates == [identity]
    world.pods["new"] = replace(ztunnel, uid="new", terminal=True)
    world.controller.notice("new")
    await world.settle()
    assert world.certificates == []


@pytest.mark.parametrize(
    "pod",
    [
        replace(POD, namespace="istio-system", labels={"app": "ztunnel"}),
        replace(POD, namespace="istio-system", labels={"app": "ztunnel", "networking.istio.io/tunnel": "other"}),
        replace(POD, labels={"app": "ztunnel", "networking.istio.io/tunnel": "http"}, host_network=True),
    ],
)
async def test_no_certificate_is_kept_for_a_pod_that_only_resembles_such_a_ztunnel(world: World, pod: PodInfo) -> None:
    world.pods[POD.uid] = pod
    world.labels = {}
    await world.settle()
    assert world.certificates == []
