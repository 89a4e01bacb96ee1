"""Takes over what a previous node agent left in pods' namespaces, read from the kernel. Blocking: used on threads."""

from collections.abc import Sequence
from pathlib import Path

from meshapi import names
from meshkit.linux import netns, sockets
from nodeagent.capture.plan import PodPlan
from nodeagent.capture.pod import CaptureBackend


class Takeover:
    """Installs rules in pods that may have rules already, possibly of another backend."""

    def __init__(self, backend: CaptureBackend, others: Sequence[CaptureBackend], host: Path) -> None:
        """Install with ``backend``; rules of ``others`` are replaced, in pods and on the host at ``host``."""
        self._host = host
        self._backend = backend
        self._others = others

    def has_rules(self, namespace: int) -> bool:
        """Return whether any backend has rules in a namespace."""
        return any(backend.present(namespace) for backend in (self._backend, *self._others))

    def take_over(self, namespace: int, plan: PodPlan) -> None:
        """Apply a plan in a prepared namespace, then remove other backends' rules.

        Raises:
            OSError: rules of another backend may be left.
        """
        self._backend.apply(namespace, plan)
        for other in self._others:
            other.clear(namespace)

    def take_over_probes(self) -> None:
        """Remove other backends' probe exemptions from the host.

        Raises:
            OSError: some of them may be left.
        """
        for other in self._others:
            other.remove_probes(self._host)


def outside(namespace: int) -> int:
    """Count the open connections of a pod that stay uncaptured because they are older than the rules."""
    return sum(one.open for one in netns.run(namespace, lambda: sockets.outside(names.TUNNEL_PORTS)))
