"""The rules of an unenrolled pod are removed once, and never those of a pod that is captured again."""

import asyncio
import gc

import pytest

from nodeagent.enrolment import draining
from nodeagent.enrolment.locks import PodLocks
from nodeagent.enrolment.state import State
from tests.support.enrolling import POD, World


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch):
    """A node without connections, on which drained pods are looked at all the time."""
    monkeypatch.setattr(draining, "_AT_LEAST_S", 0.0)
    monkeypatch.setattr(draining, "_LOOK_EVERY_S", 0.001)
    monkeypatch.setattr(draining.netns, "run", lambda *_: ())
    made = World()
    task = asyncio.create_task(made.draining.run())
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def reaches(world: World, state: State) -> None:
    async with asyncio.timeout(3):
        while world.state is not state:
            await asyncio.sleep(0.001)


async def test_the_rules_of_a_drained_pod_are_removed(world: World) -> None:
    await world.settle()
    world.labels = {}
    await world.settle()
    await reaches(world, State.NOT_ENROLLED)
    assert world.steps[-1] == "rules none"


async def test_a_drain_does_not_end_while_its_pod_is_captured_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.settle()
    labels, world.labels = world.labels, {}
    monkeypatch.setattr(draining, "_AT_LEAST_S", 3600.0)
    await world.settle()
    world.labels = labels
    world.issued.clear()
    world.controller.notice(POD.uid)
    await reaches(world, State.CAPTURING)
    monkeypatch.setattr(draining, "_AT_LEAST_S", 0.0)
    await asyncio.sleep(0.05)
    world.issued.set()
    await world.settle()
    assert world.state is State.ANNOUNCED
    assert "rules none" not in world.steps
    assert POD.uid not in world.draining


async def test_a_pod_that_the_watch_does_not_know_yet_stays_captured(world: World) -> None:
    """The CNI plugin asks for pods that the API server has and the node agent's watch has not delivered."""
    del world.pods[POD.uid]
    await world.controller.add(POD, world.open(), ("10.0.0.1",))
    await asyncio.sleep(0.05)
    assert world.state is State.CAPTURED
    assert world.enrolled.find(POD.uid) is not None
    world.pods[POD.uid] = POD
    await world.settle()
    assert world.state is State.ANNOUNCED
    assert "listeners withdrawn" not in world.steps


async def test_a_lock_exists_while_it_is_held() -> None:
    locks = PodLocks()
    async with locks.of("u"):
        gc.collect()
        assert locks.of("u").locked()
    gc.collect()
    assert not locks.of("u").locked()
    assert len(locks._locks) == 0
