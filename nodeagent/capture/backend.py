"""What every way of capturing can do."""

from collections.abc import Set
from pathlib import Path
from typing import Protocol

from meshkit.linux.changes import Changes
from nodeagent.capture.plan import PodPlan


class CaptureBackend(Protocol):
    """Makes plans so. Synchronous and quick; called on a thread. Twice is the same as once."""

    @property
    def name(self) -> str:
        """As the setting ``capture_backend`` calls it."""
        ...

    @property
    def how(self) -> str:
        """Which of the kernel's interfaces it uses, for people."""
        ...

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
            OSError: what was changed before stays changed, in an order in which nothing leaves uncaptured.
        """
        ...

    def clear(self, netns: int) -> bool:
        """Take this backend's rules away, and nothing else; say whether there were any."""
        ...

    def present(self, netns: int) -> bool:
        """Say whether this backend has rules in the namespace."""
        ...

    def missing(self, netns: int, plan: PodPlan) -> tuple[str, ...]:
        """Compare the kernel with the plan and name what is not as planned; nothing when all is.

        Raises:
            OSError: it cannot be looked at.
        """
        ...

    def repair(self, netns: int, plan: PodPlan) -> tuple[str, ...]:
        """Make good what is missing, and return it; what redirects first, because nothing is captured without it.

        Raises:
            OSError: it cannot be looked at, or not be made.
        """
        ...

    def watch(self, netns: int, plan: PodPlan) -> Changes:
        """Begin to notice changes of what ``missing`` looks at with this plan; the caller closes the result."""
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
        """Take back what ``apply_probes`` did on the host; nothing is no error."""
        ...

    def probes_missing(self, netns: Path, addresses: Set[str]) -> tuple[str, ...]:
        """Compare the host with what ``apply_probes`` was asked for and name what is not so."""
        ...

    def watch_probes(self, netns: Path) -> Changes:
        """Begin to notice changes of what ``probes_missing`` looks at; the caller closes the result."""
        ...
