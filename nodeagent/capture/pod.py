"""The interface of a capture backend."""

from collections.abc import Set
from pathlib import Path
from typing import Protocol

from meshkit.linux.changes import Changes
from nodeagent.capture.plan import PodPlan


class CaptureBackend(Protocol):
    """Applies plans to the kernel. Synchronous, idempotent, called on a thread."""

    @property
    def name(self) -> str:
        """Its value of the setting ``capture_backend``."""
        ...

    @property
    def how(self) -> str:
        """The kernel interface that it uses, for logs."""
        ...

    def prepare(self, netns: int) -> None:
        """Set up what the rules need and what has no effect without them. May run in parallel with other steps.

        Raises:
            OSError: the namespace is unchanged.
        """
        ...

    def apply(self, netns: int, plan: PodPlan) -> None:
        """Apply a plan in a prepared namespace.

        Args:
            netns: open descriptor of the namespace; the caller closes it.
            plan: the desired state.

        Raises:
            OSError: earlier steps stay applied, in an order in which nothing leaves uncaptured.
        """
        ...

    def clear(self, netns: int) -> bool:
        """Remove this backend's rules, and nothing else; return whether there were any."""
        ...

    def present(self, netns: int) -> bool:
        """Return whether this backend has rules in the namespace."""
        ...

    def missing(self, netns: int, plan: PodPlan) -> tuple[str, ...]:
        """Compare the kernel with the plan; return the names of what differs.

        Raises:
            OSError: the kernel's state cannot be read.
        """
        ...

    def repair(self, netns: int, plan: PodPlan) -> tuple[str, ...]:
        """Restore what is missing and return its names. Redirection comes first: nothing is captured without it.

        Raises:
            OSError: the kernel's state cannot be read or changed.
        """
        ...

    def watch(self, netns: int, plan: PodPlan) -> Changes:
        """Subscribe to changes of what ``missing`` compares for this plan; the caller closes the result."""
        ...

    def apply_probes(self, netns: Path, addresses: Set[str], before: Set[str] | None) -> None:
        """Exempt probes of the node's own processes to these pod addresses, and to no others.

        Args:
            netns: the host's namespace.
            addresses: addresses to exempt.
            before: addresses that the last call exempted; ``None`` if unknown: everything is rebuilt.

        Raises:
            OSError: the host is unchanged.
        """
        ...

    def remove_probes(self, netns: Path) -> None:
        """Remove what ``apply_probes`` added to the host, if anything."""
        ...

    def probes_missing(self, netns: Path, addresses: Set[str]) -> tuple[str, ...]:
        """Compare the host with these addresses; return the names of what differs."""
        ...

    def watch_probes(self, netns: Path) -> Changes:
        """Subscribe to changes of what ``probes_missing`` compares; the caller closes the result."""
        ...
