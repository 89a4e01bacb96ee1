"""What long-running work needs: backoff with jitter, and the one error to report out of a group."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Backoff:
    """Delays in seconds that double from ``first_s`` to ``cap_s``, each spread by ``jitter`` (a share of itself).

    Not shared between tasks.
    """

    first_s: float = 0.01
    cap_s: float = 15.0
    jitter: float = 0.2
    random: Callable[[], float] = random.random
    _next_s: float = field(init=False, default=0.0)

    def next(self) -> float:
        """Return the next delay in seconds."""
        self._next_s = min(self.cap_s, self._next_s * 2 or self.first_s)
        return self._next_s * (1 + self.jitter * (2 * self.random() - 1))

    def reset(self) -> None:
        """Begin again with the first delay: the work has succeeded."""
        self._next_s = 0.0


def first_cause(error: BaseException) -> BaseException:
    """Return the first error inside (nested) groups, which is what a person wants to read."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
