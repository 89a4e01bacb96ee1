"""What every way of capturing can do."""

from collections.abc import Set
from pathlib import Path
from typing import Protocol

from nodeagent.capture.plan import PodPlan


class CaptureBackend(Protocol):
    """Makes plans so. Synchronous and quick; called on a thread. Twice is the same as once."""

    def prepare(self, netns: int) -> None:
        """Put in place what rules will need and what changes nothing without them; may run beside other preparations.

        Raises:
            OSError: the namespace is as it was.
        """
        ...

    def apply(self, netns: int, plan: PodPlan) -> None:
        """Make the rules of a prepared namespace as planned.

        Args:
            netns: open descriptor of the namespace; stays the caller's.
            plan: what shall be so.

        Raises:
            OSError: the namespace is as it was.
        """
        ...

    def apply_probes(self, netns: Path, addresses: Set[str], before: Set[str] | None) -> None:
        """Exempt probes of local processes towards these pod addresses, and no others.

        Args:
            netns: the host's namespace.
            addresses: what shall be exempt.
            before: what the last call made so; ``None``: not known, everything is made anew.

        Raises:
            OSError: the host is as it was.
        """
        ...

    def remove_probes(self, netns: Path) -> None:
        """Take back what ``apply_probes`` did on the host."""
        ...
