"""Incremental collections: what is computed again after a change, in which order, and that nothing is left behind."""

import random
import time
from dataclasses import dataclass

import pytest

from controlplane.graph.collection import Setting, Source
from controlplane.graph.derived import Derived, Fetch
from controlplane.graph.label_index import LabelIndex
from controlplane.graph.lookups import Claims, Group, Index, Labels, SelectorIndex
from controlplane.graph.scheduler import BULK_THRESHOLD, Graph
from controlplane.graph.task import Stage
from tests.support.waiting import TIMEOUT_FACTOR

EARLY, LATE = Stage(single=0, bulk=1), Stage(single=2, bulk=3)


@dataclass(frozen=True)
class Item:
    """Something with a name, labels, and a selector of others' labels."""

    name: str
    labels: tuple[tuple[str, str], ...] = ()
    selector: tuple[tuple[str, str], ...] = ()
    rank: int = 0


class World:
    """Items that select each other, and for each the names of those that select it."""

    def __init__(self) -> None:
        self.graph = Graph()
        self.items: Source[str, Item] = Source(self.graph, "items")
        self.suffix = Setting(self.graph, "")
        self.selecting = SelectorIndex(self.items, lambda item: ("", dict(item.selector)))
        self.computed: list[str] = []
        self.selected_by = Derived(self.graph, "selected by", self.items, EARLY, self._selected_by)
        self.greetings = Derived(self.graph, "greetings", self.selected_by, LATE, self._greeting)
        self.by_labels = LabelIndex(self.items, lambda _: "", lambda item: dict(item.labels))
        self.by_rank: Index[int, str, Item] = Index(self.items, lambda item: (item.rank,))
        self.selects = Derived(self.graph, "selects", self.items, EARLY, self._selects)
        self.equals = Derived(self.graph, "equals", self.items, EARLY, self._equals)

    def put(self, *items: Item) -> None:
        for item in items:
            self.items.set(item.name, item)

    def run(self) -> list[str]:
        del self.computed[:]
        self.graph.run()
        return sorted(self.computed)

    def _selected_by(self, item: Item, fetch: Fetch) -> tuple[str, ...]:
        self.computed.append(item.name)
        labels: Labels = frozenset(item.labels)
        return tuple(sorted(found.name for found in fetch.matching(self.selecting, "", labels)))

    def _selects(self, item: Item, fetch: Fetch) -> tuple[str, ...]:
        found = fetch.selected(self.by_labels, "", frozenset(item.selector))
        return tuple(sorted(name for name, _ in found))

    def _equals(self, item: Item, fetch: Fetch) -> tuple[str, ...]:
        return tuple(sorted(found.name for found in fetch.members(self.by_rank, item.rank)))

    def _greeting(self, names: tuple[str, ...], fetch: Fetch) -> str:
        self.computed.append("greeting")
        return "+".join(names) + fetch.setting(self.suffix)


APP, DB = (("app", "web"),), (("app", "db"),)


def test_only_values_that_a_change_concerns_are_computed_again() -> None:
    world = World()
    world.put(Item("a", labels=APP), Item("b", labels=DB), Item("s", selector=APP))
    world.run()
    assert world.selected_by.find("a") == ("s",)
    world.put(Item("t", selector=DB))
    assert world.run() == ["b", "greeting", "greeting", "t"], "b, which t selects, and t itself"
    world.put(Item("s", selector=APP, rank=1))
    assert world.run() == ["a", "s"], "equal results go no further"
    world.items.set("s", None)
    assert world.run() == ["a", "greeting"]
    assert world.selected_by.find("a") == ()
    world.put(Item("s", selector=APP))
    world.put(Item("s", selector=DB))
    assert world.run() == ["a", "b", "greeting", "greeting", "s"], "what the old selector matched, too"


def test_a_setting_concerns_every_value_that_reads_it() -> None:
    world = World()
    world.put(*(Item(str(number)) for number in range(5)))
    world.run()
    world.suffix.set("!")
    assert world.run() == ["greeting"] * 5
    world.suffix.set("!")
    assert world.run() == []


def test_values_of_a_late_stage_wait_and_single_events_go_before_bulk() -> None:
    world = World()
    count = BULK_THRESHOLD + 1
    world.put(*(Item(f"{number:03}", labels=APP) for number in range(count)))
    world.run()
    world.put(Item("s", selector=APP))
    world.put(Item("200", labels=DB))
    del world.computed[:]
    while not world.graph.is_settled:
        assert world.graph.run(10) <= 10
    assert world.computed[:2] == ["s", "200"], "single events first, in their order"
    assert len(world.computed) == count + 1 + count, (
        "each once: the items, then what is derived from those that changed"
    )
    assert set(world.computed[: count + 1]).isdisjoint({"greeting"})
    assert set(world.computed[count + 1 :]) == {"greeting"}


def test_a_transform_that_fails_keeps_its_value_and_its_reads() -> None:
    graph = Graph()
    items: Source[str, int] = Source(graph, "items")
    divisors: Source[str, int] = Source(graph, "divisors")

    def divided(item: int, fetch: Fetch) -> int:
        return item // (fetch.find(divisors, "d") or 1)

    derived = Derived(graph, "divided", items, EARLY, divided)
    items.set("x", 10)
    divisors.set("d", 5)
    graph.run()
    assert derived.find("x") == 2
    derived._transform = lambda item, fetch: item // ((fetch.find(divisors, "d") or 1) - 7)
    divisors.set("d", 7)
    graph.run()
    [(name, key, error)] = graph.take_failures()
    assert (name, key, type(error)) == ("divided", "x", ZeroDivisionError)
    assert derived.find("x") == 2
    divisors.set("d", 8)
    graph.run()
    assert derived.find("x") == 10
    assert graph.take_failures() == []


def test_the_first_claimant_has_a_name_and_a_change_of_hands_concerns_two() -> None:
    graph = Graph()
    items: Source[str, Item] = Source(graph, "items")
    claims: Claims[str, str, Item] = Claims(
        items, lambda item: [name for name, _ in item.labels], lambda item: (item.rank, item.name)
    )
    computed: list[str] = []

    def holds(item: Item, fetch: Fetch) -> bool:
        computed.append(item.name)
        return fetch.holds(claims, "app")

    held = Derived(graph, "held", items, EARLY, holds)
    for rank in range(100):
        items.set(str(rank), Item(str(rank), labels=APP, rank=rank))
    graph.run()
    assert {name for name, value in held.items() if value} == {"0"}
    del computed[:]
    items.set("0", Item("0", labels=APP, rank=200))
    graph.run()
    assert sorted(computed) == ["0", "1"]
    assert {name for name, value in held.items() if value} == {"1"}


def test_values_can_be_derived_from_the_groups_of_an_index() -> None:
    graph = Graph()
    items: Source[str, Item] = Source(graph, "items")
    by_rank: Index[int, str, Item] = Index(items, lambda item: (item.rank,))

    def joined(group: Group[int, str, Item], _: Fetch) -> str:
        return ",".join(sorted(group.members))

    names = Derived(graph, "names", by_rank, EARLY, joined)
    items.set("a", Item("a", rank=1))
    items.set("b", Item("b", rank=1))
    graph.run()
    assert names.find(1) == "a,b"
    items.set("a", Item("a", rank=2))
    graph.run()
    assert (names.find(1), names.find(2)) == ("b", "a")
    items.set("b", None)
    graph.run()
    assert names.find(1) is None


@pytest.mark.parametrize("seed", range(20))
def test_any_order_of_changes_ends_like_a_computation_from_scratch_and_leaves_nothing_behind(seed: int) -> None:
    chosen = random.Random(seed)
    pairs = [(name, value) for name in "abc" for value in "xy"]
    world, present = World(), {}
    for _ in range(300):
        name = str(chosen.randrange(8))
        if chosen.random() < 0.3:
            present.pop(name, None)
            world.items.set(name, None)
        else:
            labels, selector = (tuple(dict(chosen.choices(pairs, k=chosen.randrange(3))).items()) for _ in "12")
            present[name] = Item(name, labels, selector, rank=chosen.randrange(3))
            world.put(present[name])
        world.graph.run(chosen.choice([0, 1, None]))
    world.graph.run()
    fresh = World()
    fresh.put(*present.values())
    fresh.graph.run()
    assert dict(world.selected_by.items()) == dict(fresh.selected_by.items())
    assert dict(world.greetings.items()) == dict(fresh.greetings.items())
    assert dict(world.selects.items()) == dict(fresh.selects.items())
    assert dict(world.equals.items()) == dict(fresh.equals.items())
    for name in present:
        world.items.set(name, None)
    world.graph.run()
    index = world.selecting
    assert not any((index._values, index._subjects, index._by_pair, world.selected_by._tasks, world.greetings._tasks))
    assert len(world.selected_by) == len(world.greetings) == 0
    assert not (world.by_labels._subjects or world.by_labels._by_pair or world.by_labels._values)
    assert not len(world.by_rank.reads)


def test_a_selector_is_answered_again_only_when_a_value_that_it_matches_changes() -> None:
    world = World()
    world.put(Item("a", labels=APP), Item("b", labels=DB), Item("s", selector=APP))
    world.run()
    assert (world.selects.find("s"), world.selects.find("a")) == (("a",), ())
    world.put(Item("c", labels=APP))
    world.run()
    assert world.selects.find("s") == ("a", "c")
    world.put(Item("a", labels=DB))
    world.run()
    assert world.selects.find("s") == ("c",)


def test_a_value_in_very_many_groups_is_filed_in_linear_time() -> None:
    graph = Graph()
    source: Source[str, tuple[int, ...]] = Source(graph, "numbers")
    index: Index[int, str, tuple[int, ...]] = Index(source, lambda value: value)
    many = tuple(range(20_000))
    source.set("a", many)
    started = time.process_time()
    source.set("a", many[1:])
    assert time.process_time() - started < 1.0 * TIMEOUT_FACTOR, "a gateway's routes come from thousands of objects"
    assert index.find(0) is None
    assert index.find(1) is not None
