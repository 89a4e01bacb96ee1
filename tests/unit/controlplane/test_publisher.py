"""When changes are computed: at once, or in slices with other tasks in between."""

import asyncio
import itertools
from typing import Any

from controlplane.ambient.model import TYPES, Model, create
from controlplane.ambient.outputs import Changes
from controlplane.envoy import layer7
from controlplane.graph.derived import Fetch
from controlplane.inputs.config_warnings import ConfigWarnings
from controlplane.inputs.mesh import MeshContext
from controlplane.metrics import Metrics
from controlplane.xds import publisher, worlds
from controlplane.xds.publisher import Publisher
from controlplane.xds.snapshot import Snapshot
from meshapi import names
from meshapi.resources import base, core, security
from tests.support import kubernetes_objects as objects
from tests.support.waiting import until


class Applied(Snapshot):
    """A snapshot that notes in which turn of the event loop it was changed."""

    def __init__(self) -> None:
        super().__init__(TYPES)
        self.turn = 0
        self.turns: list[int] = []

    def apply(self, changes: Changes) -> None:
        super().apply(changes)
        self.turns.append(self.turn)

    async def count(self) -> None:
        while True:
            await asyncio.sleep(0)
            self.turn += 1


def plane() -> tuple[Model, Applied, Metrics, Publisher]:
    metrics = Metrics()
    model, snapshot = create(MeshContext()), Applied()
    return (
        model,
        snapshot,
        metrics,
        Publisher(model, snapshot, worlds.create(layer7.create(model)), metrics, ConfigWarnings(metrics)),
    )


def pods(model: Model, count: int) -> None:
    for number in range(count):
        item = objects.pod(f"p{number}", ip=f"10.0.{number >> 8}.{number & 255}")
        put(model, base.read(core.Pod, item))


def put(model: Model, item: base.Object) -> None:
    model.inputs.of(type(item)).set(item.key, item)


def strict() -> security.PeerAuthentication:
    return base.read(security.PeerAuthentication, objects.peer("mesh", "istio-system", mode="STRICT"))


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


async def test_other_tasks_run_between_slices() -> None:
    model, snapshot, metrics, published = plane()
    pods(model, publisher._SLICE * 5)
    await published.open()
    assert len(snapshot.turns) == 10, "the first computation is in slices too, for ztunnels and for waypoints"
    del snapshot.turns[:]
    counting = asyncio.create_task(snapshot.count())
    put(model, strict())
    published.touch("peerauthentication")
    await until(lambda: model.is_settled)
    counting.cancel()
    slices = snapshot.turns
    assert len(slices) == 6, "five of pods, and the policies in the first"
    assert all(later - earlier > publisher._TURNS for earlier, later in itertools.pairwise(slices))
    held = snapshot.all(names.ADDRESS_TYPE)
    assert len(held) == publisher._SLICE * 5
    assert value(metrics, "pilot_push_triggers", type="peerauthentication") == 1
    assert value(metrics, "pilot_debounce_time_count") == 1, "slices of one change are no changes"


async def test_a_single_change_is_computed_in_the_same_turn() -> None:
    model, snapshot, _, published = plane()
    await published.open()
    pods(model, 1)
    published.touch()
    assert not snapshot.all(names.ADDRESS_TYPE)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(snapshot.all(names.ADDRESS_TYPE)) == 1


async def test_an_object_that_cannot_be_computed_takes_no_other_with_it() -> None:
    model, snapshot, metrics, published = plane()
    await published.open()
    pods_collection = model.resources["pods"]
    transform = pods_collection._transform

    def faulty(pod: core.Pod, fetch: Fetch) -> Any:
        if pod.metadata.name == "p3":
            raise ZeroDivisionError
        return transform(pod, fetch)

    pods_collection._transform = faulty
    pods(model, 10)
    published.touch()
    await until(lambda: model.is_settled)
    assert len(snapshot.all(names.ADDRESS_TYPE)) == 9
    assert value(metrics, "pilot_total_xds_internal_errors") == 1


async def test_a_failure_does_not_end_publishing() -> None:
    model, snapshot, metrics, published = plane()
    await published.open()

    def faulty(_: str, __: frozenset[str]) -> None:
        stop()
        raise ZeroDivisionError

    stop = snapshot.watch(faulty)
    pods(model, 1)
    published.touch()
    await until(lambda: value(metrics, "pilot_total_xds_internal_errors") == 1)
    item = objects.pod("later", ip="10.1.0.1")
    put(model, base.read(core.Pod, item))
    published.touch()
    await until(lambda: "Kubernetes//Pod/shop/later" in {one.name for one in snapshot.all(names.ADDRESS_TYPE)})
