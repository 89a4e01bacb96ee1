"""Times of connections by workload, as a histogram. Pure."""

from collections import Counter
from collections.abc import Iterator
from typing import Final

_BAR: Final = 40


class Latency:
    """Counts times, by who has called.

    Args:
        what: what the times are.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._counts: dict[str, Counter[int]] = {}

    def add(self, who: str, seconds: float) -> None:
        """Count one."""
        # Slot n holds what is below 2^n microseconds and not in the slot before.
        self._counts.setdefault(who, Counter())[max(round(seconds * 1e6), 1).bit_length()] += 1

    @property
    def document(self) -> dict[str, object]:
        """For programs: by caller, how many were below each bound in microseconds and not below the one before."""
        return {
            "what": self.what,
            "callers": {who: {str(1 << slot): slots[slot] for slot in sorted(slots)} for who, slots in self._sorted()},
        }

    def __str__(self) -> str:
        """For people."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        for who, slots in self._sorted():
            yield f"{who}: {self.what}, {slots.total()} connections"
            most = max(slots.values())
            for slot in range(min(slots), max(slots) + 1):
                count = slots[slot]
                bar = "#" * round(_BAR * count / most)
                yield f"  below {_time(1 << slot):>10}   {count:>7}   {bar}".rstrip()

    def _sorted(self) -> list[tuple[str, Counter[int]]]:
        return sorted(self._counts.items())


def _time(microseconds: int) -> str:
    if microseconds >= 1_000_000:
        return f"{microseconds / 1e6:.1f} s"
    return f"{microseconds / 1e3:.1f} ms" if microseconds >= 1_000 else f"{microseconds} µs"
