"""What earlier lives of this process have left in pods' namespaces, told by the kernel. Blocking; used on threads."""

from collections.abc import Sequence
from pathlib import Path

from meshapi import names
from meshkit.linux import netns, sockets
from nodeagent.capture.backend import CaptureBackend
from nodeagent.capture.plan import PodPlan


class Adoption:
    """Puts rules into pods that may have rules already, perhaps of a backend that was used before."""

    def __init__(self, backend: CaptureBackend, others: Sequence[CaptureBackend], host: Path) -> None:
        """Adopt for ``backend``; what ``others`` have left is replaced, in pods and in the namespace at ``host``."""
        self._host = host
        self._backend = backend
        self._others = others

    def has_rules(self, namespace: int) -> bool:
        """Say whether anything of ours is in a namespace."""
        return any(backend.present(namespace) for backend in (self._backend, *self._others))

    def take_over(self, namespace: int, plan: PodPlan) -> None:
        """Make the rules of a prepared namespace as planned; another backend's rules go when the new ones stand.

        Raises:
            OSError: the other's rules may still be there.
        """
        self._backend.apply(namespace, plan)
        for other in self._others:
            other.clear(namespace)

    def take_over_probes(self) -> None:
        """Remove what other backends have left on the host.

        Raises:
            OSError: some of it may still be there.
        """
        for other in self._others:
            other.remove_probes(self._host)


def outside(namespace: int) -> int:
    """Count the connections of a pod that capturing it will leave as they are."""
    return sum(one.open for one in netns.run(namespace, lambda: sockets.outside(names.TUNNEL_PORTS)))
