"""One value to compute, and when."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Stage:
    """When the values of a collection are computed, relative to others; lower numbers first.

    Attributes:
        single: priority of what a single event enqueues.
        bulk: priority of what is enqueued in bulk.
    """

    single: int
    bulk: int


class Computed(Protocol):
    """A collection whose values are computed.

    Attributes:
        name: for logs.
        stage: when.
    """

    name: str
    stage: Stage

    def compute(self, key: Any, /) -> None:
        """Compute a value again."""
        ...


Task = tuple[Computed, Hashable]
"""A collection and the key of a value."""
