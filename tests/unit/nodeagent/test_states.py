"""The states of a pod: which transitions are legal, and which ones enrolment makes."""

import asyncio
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from nodeagent.capture.pod import Sandbox
from nodeagent.enrolment.state import LEGAL, IllegalTransition, PodStates, State
from nodeagent.zds.server import NotConnected
from tests.support.enrolling import ENABLED, POD, World

ARCHITECTURE = Path(__file__).parents[3] / "docs" / "architecture.md"


def namespace() -> int:
    return os.open("/proc/self/ns/net", os.O_RDONLY)


@pytest.fixture
async def world():
    return World()


def test_every_state_is_reached_and_left() -> None:
    assert set(LEGAL) == set(State)
    assert set().union(*LEGAL.values()) == set(State) - {State.NEW}
    assert all(LEGAL.values())


def test_the_documentation_draws_the_same_transitions() -> None:
    section = ARCHITECTURE.read_text().split("## The life of a pod", 1)[1].split("\n## ", 1)[0]
    drawn = re.findall(r"^\| `([a-z-]+)` \|.*\| ([^|]*) \|$", section, re.MULTILINE)
    assert {state: set(re.findall(r"`([a-z-]+)`", after)) for state, after in drawn} == {
        str(state): {str(one) for one in after} for state, after in LEGAL.items()
    }


def test_an_illegal_transition_is_reported_and_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    states = PodStates()
    states.move("u", State.NOT_ENROLLED)
    states.move("u", State.UNENROLLING)
    assert "pod u cannot change from not-enrolled to unenrolling" in "".join(capsys.readouterr())
    assert states.state("u") is State.UNENROLLING

    reported: list[IllegalTransition] = []
    states = PodStates(reported.append)
    states.move("u", State.UNENROLLING)
    states.move("u", State.UNENROLLING)
    assert [(one.before, one.after) for one in reported] == [(State.NEW, State.UNENROLLING)], "the second is none"


async def test_a_pod_is_announced_after_it_is_captured_and_drains_after_it_is_unenrolled(world: World) -> None:
    assert world.state is State.NEW
    await world.settle()
    assert world.state is State.ANNOUNCED
    world.labels = {}
    await world.settle()
    assert world.state is State.DRAINING
    await world.draining.finish(0)
    assert world.steps[-1] == "rules none"
    assert world.state is State.NOT_ENROLLED


async def test_a_pod_that_drains_can_be_captured_again(world: World) -> None:
    await world.settle()
    labels, world.labels = world.labels, {}
    await world.settle()
    world.labels = labels
    await world.settle()
    assert world.state is State.ANNOUNCED
    assert POD.uid not in world.draining


async def test_a_pod_that_drains_goes_on_draining_while_its_capture_fails(world: World) -> None:
    await world.settle()
    labels, world.labels = world.labels, {}
    await world.settle()
    since = world.states.observe(POD.uid).since
    world.labels, world.connected = labels, False
    world.controller.notice(POD.uid)
    async with asyncio.timeout(3):
        while not world.states.observe(POD.uid).failure:
            await asyncio.sleep(0.001)
    record = world.states.observe(POD.uid)
    assert (record.state, record.since, record.failure) == (State.DRAINING, since, "no ztunnel is connected")
    world.connected = True
    await world.settle()
    assert world.states.observe(POD.uid).failure == ""
    assert world.state is State.ANNOUNCED


async def test_a_pod_whose_capture_fails_waits_since_its_first_attempt(world: World) -> None:
    world.broken_rules = 3
    world.controller.notice(POD.uid)
    seen = set()
    async with asyncio.timeout(5):
        while world.state is not State.ANNOUNCED:
            record = world.states.observe(POD.uid)
            if record.state is State.WAITING:
                seen.add((record.since, record.failure))
            await asyncio.sleep(0.001)
    assert len({since for since, _ in seen}) == 1
    assert "the kernel says no" in {failure for _, failure in seen}
    await world.settle()
    assert world.states.observe(POD.uid).failure == ""


async def test_a_pod_without_a_sandbox_waits_for_the_cni_plugin(world: World) -> None:
    world.pods[POD.uid] = replace(POD, addresses=())
    await world.settle()
    assert world.state is State.WAITING
    await world.controller.add(POD, namespace(), ("10.0.0.1",))
    assert world.state is State.CAPTURED
    await world.settle()
    assert world.state is State.ANNOUNCED


async def test_a_failed_request_of_the_cni_plugin_is_recorded(world: World) -> None:
    world.connected = False
    with pytest.raises(NotConnected):
        await world.controller.add(POD, namespace(), ("10.0.0.1",))
    record = world.states.observe(POD.uid)
    assert (record.state, record.failure) == (State.WAITING, "no ztunnel is connected")


async def test_a_pod_that_is_enrolled_again_before_its_rules_are_reduced_stays_captured(world: World) -> None:
    await world.settle()
    labels, world.labels = world.labels, {}
    world.broken_rules = 1
    world.controller.notice(POD.uid)
    async with asyncio.timeout(3):
        while not world.states.observe(POD.uid).failure:
            await asyncio.sleep(0.001)
    assert world.state is State.UNENROLLING
    world.labels = labels
    await world.settle()
    assert world.state is State.ANNOUNCED
    assert world.steps[-2:] == ["announce None", "announce enabled"]


async def test_a_pod_in_a_new_sandbox_is_captured_there(world: World) -> None:
    await world.settle()
    await world.controller.add(world.pods[POD.uid], namespace(), ("10.0.0.2",))
    assert world.state is State.CAPTURED
    await world.settle()
    assert world.state is State.ANNOUNCED


async def test_states_after_a_restart_come_from_the_annotation_and_the_kernel(world: World) -> None:
    world.pods[POD.uid] = replace(POD, annotations=ENABLED)
    await world.controller.adopt()
    assert world.state is State.ANNOUNCED
    leftover = World()
    leftover.found, leftover.labels = True, {}
    await leftover.controller.adopt()
    assert leftover.state is State.DRAINING
    await leftover.settle()
    assert leftover.state is State.DRAINING


async def test_a_pod_that_completes_is_no_longer_enrolled_and_a_deleted_one_has_no_record(world: World) -> None:
    await world.settle()
    world.pods[POD.uid] = replace(POD, terminal=True)
    await world.settle()
    assert world.state is State.NOT_ENROLLED
    before = world.states.observe(POD.uid).since
    del world.pods[POD.uid]
    await world.settle()
    assert world.states.observe(POD.uid).since > before, "a new record"


async def test_the_end_of_a_drain_does_not_change_a_pod_that_is_gone(world: World) -> None:
    world.draining.add(Sandbox(POD, namespace()))
    await world.draining.finish(0)
    assert world.state is State.NEW
