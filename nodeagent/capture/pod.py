"""Capture of one pod: the interface that each backend implements."""

from dataclasses import dataclass
from typing import Protocol

from meshkit.linux.changes import Changes
from nodeagent.capture.plan import PodPlan
from nodeagent.discovery.enrolment import PodInfo


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A pod and its network namespace (Kubernetes: the pod's sandbox).

    Attributes:
        pod: facts of the pod. Rules need none of them; a backend that works on cgroups finds the pod's by its UID.
        netns: open descriptor of its network namespace; the maker of the sandbox closes it.
    """

    pod: PodInfo
    netns: int


class PodCapture(Protocol):
    """Applies plans to pods. Synchronous, idempotent, called on a thread."""

    @property
    def name(self) -> str:
        """Its value of the setting ``capture_backend``."""
        ...

    @property
    def how(self) -> str:
        """The kernel interface that it uses, for logs."""
        ...

    def used_for(self, plan: PodPlan) -> "PodCapture":
        """Return the backend that applies a plan: this one, or another to which it leaves such plans."""
        ...

    def replace(self, sandbox: Sandbox, other: "PodCapture") -> None:
        """Remove what another backend has in a sandbox, after ``apply``, as soon as no open connection needs it.

        Raises:
            OSError: some of it may be left.
        """
        ...

    def prepare(self, sandbox: Sandbox) -> None:
        """Set up what the rules need and what has no effect without them. May run in parallel with other steps.

        Raises:
            OSError: the namespace is unchanged.
        """
        ...

    def apply(self, sandbox: Sandbox, plan: PodPlan) -> None:
        """Apply a plan in a prepared sandbox.

        Raises:
            OSError: earlier steps stay applied, in an order in which nothing leaves uncaptured.
        """
        ...

    def clear(self, sandbox: Sandbox) -> bool:
        """Remove this backend's rules, and nothing else; return whether there were any."""
        ...

    def present(self, sandbox: Sandbox) -> bool:
        """Return whether this backend has rules in the sandbox."""
        ...

    def missing(self, sandbox: Sandbox, plan: PodPlan) -> tuple[str, ...]:
        """Compare the kernel with the plan; return the names of what differs.

        Raises:
            OSError: the kernel's state cannot be read.
        """
        ...

    def repair(self, sandbox: Sandbox, plan: PodPlan) -> tuple[str, ...]:
        """Restore what is missing and return its names. Redirection comes first: nothing is captured without it.

        Raises:
            OSError: the kernel's state cannot be read or changed.
        """
        ...

    def watch(self, sandbox: Sandbox, plan: PodPlan) -> Changes:
        """Subscribe to changes of what ``missing`` compares for this plan; the caller closes the result."""
        ...
