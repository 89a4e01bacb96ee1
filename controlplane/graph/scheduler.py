"""The queue of values to compute: stage by stage, and what single events enqueue before what is enqueued in bulk."""

import itertools
from collections import OrderedDict
from collections.abc import Collection, Iterator
from typing import Any, Final

from controlplane.graph.task import Stage, Task

BULK_THRESHOLD: Final = 256
"""An event that enqueues more values than this is bulk: single events go first."""


class Graph:
    """The collections' scheduler. Not safe for threads.

    Values of a lower priority number are computed first; within a priority the order is first in, first out. A value is
    queued at most once, and one that is queued may only move forward.
    """

    def __init__(self) -> None:
        # A plain dictionary finds its first key slowly after many removals.
        self._queues: dict[int, OrderedDict[Task, None]] = {}
        self._order: list[OrderedDict[Task, None]] = []
        self._failures: list[tuple[str, Any, Exception]] = []

    def add_stage(self, stage: Stage) -> None:
        """Make the queues of a stage."""
        for priority in (stage.single, stage.bulk):
            self._queues.setdefault(priority, OrderedDict())
        self._order = [self._queues[priority] for priority in sorted(self._queues)]

    def enqueue(self, tasks: Collection[Task]) -> None:
        """Enqueue what one event concerns."""
        bulk = len(tasks) > BULK_THRESHOLD
        for task in tasks:
            stage = task[0].stage
            if not bulk:
                self._queues[stage.bulk].pop(task, None)
                self._queues[stage.single][task] = None
            elif task not in self._queues[stage.single]:
                self._queues[stage.bulk][task] = None

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to compute."""
        return not any(self._order)

    def run(self, limit: int | None = None) -> int:
        """Compute at most ``limit`` values, or all; return how many. A transform that raises keeps its last value."""
        count = 0
        for derived, key in itertools.islice(self._drain(), limit):
            count += 1
            try:
                derived.compute(key)
            except Exception as error:  # one unforeseen object must not stop the others
                self._failures.append((derived.name, key, error))
        return count

    def take_failures(self) -> list[tuple[str, Any, Exception]]:
        """Return what could not be computed since the last call: collection, key, error."""
        failures, self._failures = self._failures, []
        return failures

    def _drain(self) -> Iterator[Task]:
        while True:
            queue = next((queue for queue in self._order if queue), None)
            if queue is None:
                return
            yield queue.popitem(last=False)[0]
