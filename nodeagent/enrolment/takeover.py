"""Takes over what a previous node agent left in pods' namespaces, read from the kernel. Blocking: used on threads."""

from collections.abc import Sequence
from pathlib import Path

from meshapi import names
from meshkit.linux import netns, sockets
from nodeagent.capture.backend import CaptureBackend
from nodeagent.capture.plan import PodPlan
from nodeagent.capture.pod import Sandbox


class Takeover:
    """Installs rules in pods that may have rules already, possibly of another backend."""

    def __init__(self, backend: CaptureBackend, others: Sequence[CaptureBackend], host: Path) -> None:
        """Install with ``backend``; rules of ``others`` are replaced, in pods and on the host at ``host``."""
        self._host = host
        self._capture = backend.pods
        self._probes = backend.probes
        self._others = others

    def has_rules(self, sandbox: Sandbox) -> bool:
        """Return whether any backend has rules in a sandbox."""
        return any(capture.present(sandbox) for capture in (self._capture, *(other.pods for other in self._others)))

    def take_over(self, sandbox: Sandbox, plan: PodPlan) -> None:
        """Apply a plan in a prepared sandbox, then remove other backends' rules.

        Raises:
            OSError: rules of another backend may be left.
        """
        self._capture.apply(sandbox, plan)
        used = self._capture.used_for(plan)
        for other in self._others:
            if other.pods is not used:
                used.replace(sandbox, other.pods)

    def take_over_probes(self) -> None:
        """Remove other backends' probe exemptions from the host.

        Raises:
            OSError: some of them may be left.
        """
        for other in self._others:
            if other.probes != self._probes:  # two backends may exempt probes by the same rules
                other.probes.remove(self._host)


def outside(sandbox: Sandbox) -> int:
    """Count the open connections of a pod that stay uncaptured because they are older than the rules."""
    return sum(one.open for one in netns.run(sandbox.netns, lambda: sockets.outside(names.TUNNEL_PORTS)))
