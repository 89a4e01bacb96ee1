"""Policies for services as backends, as collections: what each says, and which counts for a service's port.

Of several for one target the oldest counts, by the API's rule for direct policy attachment (GEP-2648).
"""

from collections.abc import Callable, Iterable
from typing import Any, Final, Generic, Protocol, TypeVar

from controlplane.graph.collection import Collection
from controlplane.graph.derived import Derived, Fetch
from controlplane.graph.lookups import Index
from controlplane.graph.scheduler import Graph
from controlplane.inputs.sources import Inputs
from controlplane.inputs.verdicts import Verdict
from controlplane.routing.route_references import ISTIO_GROUP
from controlplane.routing.services import Port, Service
from controlplane.stages import ROUTES
from meshapi.resources import base
from meshapi.resources.backend_policies import PolicyTarget
from meshkit.kube import Key

TARGET_GROUPS: Final = {"Service": "", "ServiceEntry": ISTIO_GROUP}
"""Kinds of targets, with their groups."""
Place = tuple[str, Key]
"""Kind and key of a target."""


class PolicyReading(Protocol):
    """What a policy says."""

    @property
    def key(self) -> Key:
        """Of the policy."""
        ...

    @property
    def created(self) -> str:
        """When it was made."""
        ...

    @property
    def targets(self) -> tuple[PolicyTarget, ...]:
        """What it is for."""
        ...

    @property
    def accepted(self) -> Verdict:
        """Condition ``Accepted``, as far as the policy itself has to do with it."""
        ...

    @property
    def resolved(self) -> Verdict | None:
        """Condition ``ResolvedRefs``; ``None``: the policy refers to nothing."""
        ...


R = TypeVar("R", bound=PolicyReading)


class BackendPolicies(Generic[R]):
    """The policies of one kind.

    Args:
        graph: the scheduler.
        inputs: where the objects are.
        model: of the objects.
        read: returns what an object says; pure.

    Attributes:
        readings: what each policy says, by key.
    """

    def __init__(self, graph: Graph, inputs: Inputs, model: type[base.Object], read: Callable[[Any, Fetch], R]) -> None:
        self.readings: Collection[Key, R] = Derived(graph, f"{model.__name__}s", inputs.of(model), ROUTES, read)
        self._by_target: Index[Place, Key, R] = Index(self.readings, _places)

    def of(self, service: Service, fetch: Fetch) -> tuple[tuple[int, R], ...]:
        """Return the policy of each port that has one, by the port's number.

        A policy for a port goes before one for the whole service, and the older one before others.
        """
        place = (service.kind, service.key)
        found = sorted(fetch.members(self._by_target, place), key=_age)
        return tuple((port.number, one) for port in service.ports if (one := _of_port(found, place, port)) is not None)

    def rival(self, reading: R, target: PolicyTarget, fetch: Fetch) -> Key | None:
        """Return the older policy that counts for a target instead of another one; ``None``: there is none."""
        place = place_of(reading, target)
        older = (one for one in sorted(fetch.members(self._by_target, place), key=_age) if _age(one) < _age(reading))
        return next((one.key for one in older if _names(one, place, {target.section_name})), None)


def place_of(reading: PolicyReading, target: PolicyTarget) -> Place:
    """Return a target of a policy, which is in the policy's namespace."""
    return (target.kind, (reading.key[0], target.name))


def _of_port(found: Iterable[R], place: Place, port: Port) -> R | None:
    """Return the first policy for a port, else the first one for the whole service."""
    candidates = list(found)
    for section in (port.name, ""):
        chosen = next((one for one in candidates if _names(one, place, {section})), None)
        if chosen is not None:
            return chosen
    return None


def _names(reading: PolicyReading, place: Place, sections: set[str]) -> bool:
    return any(place_of(reading, one) == place and one.section_name in sections for one in reading.targets)


def _age(reading: PolicyReading) -> tuple[str, Key]:
    return (reading.created, reading.key)


def _places(reading: PolicyReading) -> Iterable[Place]:
    return {place_of(reading, one) for one in reading.targets if TARGET_GROUPS.get(one.kind) == one.group}
