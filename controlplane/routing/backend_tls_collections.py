"""BackendTLSPolicies as collections: what each says, and which counts for a service's port."""

from collections.abc import Iterable

from controlplane.graph.collection import Collection
from controlplane.graph.derived import Derived, Fetch
from controlplane.graph.lookups import Index
from controlplane.graph.scheduler import Graph
from controlplane.inputs.sources import Inputs
from controlplane.routing import backend_tls
from controlplane.routing.backend_tls import TlsReading
from controlplane.routing.services import Port, Service
from controlplane.stages import ROUTES
from meshapi.resources.backend_policies import BackendTLSPolicy, PolicyTarget
from meshkit.kube import Key

_Target = tuple[str, Key]
"""Kind and key."""


class BackendTlsPolicies:
    """The policies of one mesh.

    Attributes:
        readings: what each policy says, by key.
    """

    def __init__(self, graph: Graph, inputs: Inputs) -> None:
        self._certificates = inputs.certificates
        self.readings: Collection[Key, TlsReading] = Derived(
            graph, "TLS of backends", inputs.of(BackendTLSPolicy), ROUTES, self._read
        )
        self._by_target: Index[_Target, Key, TlsReading] = Index(self.readings, _targets)

    def of(self, service: Service, fetch: Fetch) -> tuple[tuple[int, TlsReading], ...]:
        """Return the policy of each port that has one, by the port's number.

        A policy for a port goes before one for the whole service, and the older one before others.
        """
        found = sorted(fetch.members(self._by_target, (service.kind, service.key)), key=lambda one: one.age)
        return tuple((port.number, one) for port in service.ports if (one := _of_port(found, service, port)))

    def rival(self, reading: TlsReading, target: PolicyTarget, fetch: Fetch) -> Key | None:
        """Return the older policy that counts for a target instead of another one; ``None``: there is none."""
        place = _place(reading, target)
        others = sorted(fetch.members(self._by_target, place), key=lambda one: one.age)
        return next(
            (
                other.key
                for other in others
                if other.age < reading.age
                and any(
                    _place(other, one) == place and one.section_name == target.section_name for one in other.targets
                )
            ),
            None,
        )

    def _read(self, item: BackendTLSPolicy, fetch: Fetch) -> TlsReading:
        namespace = item.metadata.namespace
        return backend_tls.read(item, lambda name: fetch.find(self._certificates, (namespace, name)))


def _of_port(found: Iterable[TlsReading], service: Service, port: Port) -> TlsReading | None:
    candidates = [
        (not target.section_name, one.age, one)
        for one in found
        for target in one.targets
        if _place(one, target) == (service.kind, service.key) and target.section_name in {"", port.name}
    ]
    return min(candidates, key=lambda item: item[:2])[2] if candidates else None


def _place(reading: TlsReading, target: PolicyTarget) -> _Target:
    return (target.kind, (reading.key[0], target.name))


def _targets(reading: TlsReading) -> Iterable[_Target]:
    return {_place(reading, one) for one in reading.targets if backend_tls.TARGET_GROUPS.get(one.kind) == one.group}
