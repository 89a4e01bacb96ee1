"""What was looked at, and what was found. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How good a finding is, the best first."""

    OK = "ok"
    LIMIT = "limit"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the report.

    Attributes:
        area: kernel, backend, mounts, cni, conflicts, clock or mtu.
        name: what was looked at.
        level: ``limit``: works, with less than could be; ``fault``: does not work.
        detail: what was found; of what is not ok, the consequence and the fix.
    """

    area: str
    name: str
    level: Level
    detail: str = ""

    @property
    def document(self) -> dict[str, str]:
        """The result for programs."""
        return {"area": self.area, "name": self.name, "level": str(self.level), "detail": self.detail}


def exit_code(results: Iterable[Result]) -> int:
    """Return 0 where all is well, 1 where something works with limits, 2 where something does not work."""
    return max((list(Level).index(result.level) for result in results), default=0)


def table(results: Iterable[Result]) -> str:
    """Return the report for people: aligned columns."""
    rows = [(result.area, result.name, str(result.level), result.detail) for result in results]
    lines = [("AREA", "CHECK", "RESULT", "DETAIL"), *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    padded = ("   ".join([*(cell.ljust(width) for cell, width in zip(line, widths)), line[3]]) for line in lines)  # noqa: B905
    return "\n".join(line.rstrip() for line in padded)
