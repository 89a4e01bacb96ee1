"""Which waypoint an object uses: its own labels, else its namespace's.

Rules, as Istio's:

1.  An object's own ``istio.io/use-waypoint`` counts alone: one that is not ready is not substituted by the namespace's.
    ``none`` opts out.
2.  Without ``istio.io/use-waypoint-namespace`` the waypoint is in the object's namespace, also where the label is the
    namespace's.
3.  A waypoint is used for what it handles only, and by the namespaces that its listener allows.
4.  What belongs to a waypoint or a gateway has none: it would send traffic to itself.
5.  A service that needs a waypoint, and for which no label says anything, uses its namespace's automatic one, where the
    mesh has these (``controlplane.waypoints.needs``).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from controlplane.waypoints.waypoint import Handles, Waypoint
from meshapi import names
from meshapi.resources.base import Metadata
from meshapi.resources.core import Namespace
from meshapi.resources.gateway import FromNamespaces
from meshkit.kube import Key


@dataclass(frozen=True, slots=True)
class Reference:
    """What the labels of an object or a namespace say; no waypoint: it opts out."""

    waypoint: Key | None


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a waypoint that labels name is not used: a reason and a message as Istio's conditions have them."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Attachment:
    """The waypoint that an object uses, or why it uses none although labels name one.

    Attributes:
        waypoint: key of its Gateway.
        problem: set where there is no waypoint.
        ingress: what ``istio.io/ingress-use-waypoint`` says; ``None``: nothing.
    """

    waypoint: Key | None = None
    problem: Problem | None = None
    ingress: bool | None = None


@dataclass(frozen=True, slots=True)
class World:
    """What an attachment depends on besides the object; each function looks one thing up.

    Attributes:
        reference: what a namespace's labels say.
        waypoint: a waypoint that is ready.
        namespace: a namespace, for its labels.
    """

    reference: Callable[[str], Reference | None]
    waypoint: Callable[[Key], Waypoint | None]
    namespace: Callable[[str], Namespace | None]


def reference(metadata: Metadata, namespace: str) -> Reference | None:
    """Return what the labels of an object in ``namespace``, or of that namespace, say; ``None``: nothing."""
    name = metadata.labels.get(names.USE_WAYPOINT_LABEL)
    if name is None:
        return None
    if name == names.USE_WAYPOINT_NONE:
        return Reference(None)
    return Reference((metadata.labels.get(names.USE_WAYPOINT_NAMESPACE_LABEL, namespace), name))


def of_service(
    metadata: Metadata, world: World, *, automatic: Reference | None = None, is_private: bool = False
) -> Attachment | None:
    """Return what a service or ServiceEntry is attached to; ``None``: no label names a waypoint.

    Args:
        metadata: of the object.
        world: what it depends on.
        automatic: the automatic waypoint, if it needs one.
        is_private: whether only its own namespace may see it.
    """
    if _is_of_waypoint(metadata, world):
        return None
    found = _attachment(metadata, world, Handles.SERVICE, automatic)
    if found is None or found.waypoint is None:
        return found
    if is_private and found.waypoint[0] != metadata.namespace:
        return Attachment(problem=_forbidden(found.waypoint))
    return Attachment(found.waypoint, ingress=_ingress(metadata, world.namespace(metadata.namespace)))


def of_workload(metadata: Metadata, world: World) -> Attachment | None:
    """Return what a pod or WorkloadEntry is attached to; ``None``: no label names a waypoint for it."""
    if _is_of_waypoint(metadata, world):
        return None
    found = _attachment(metadata, world, Handles.WORKLOAD)
    has_own = names.USE_WAYPOINT_LABEL in metadata.labels
    if found is not None and found.problem is not None and found.problem.reason == _UNSUPPORTED and not has_own:
        return None  # its namespace's waypoint is for services, which is no mistake
    return found


def _attachment(
    metadata: Metadata, world: World, wanted: Handles, automatic: Reference | None = None
) -> Attachment | None:
    found = reference(metadata, metadata.namespace) or world.reference(metadata.namespace) or automatic
    if found is None or found.waypoint is None:
        return None
    waypoint = world.waypoint(found.waypoint)
    if waypoint is None:
        return Attachment(problem=_not_ready(found.waypoint))
    if not _allows(waypoint, metadata.namespace, world):
        return Attachment(problem=_denied(found.waypoint))
    if not waypoint.handles_any(wanted):
        return Attachment(problem=_unsupported(found.waypoint, wanted))
    return Attachment(found.waypoint)


def _is_of_waypoint(metadata: Metadata, world: World) -> bool:
    labels = metadata.labels
    if labels.get(names.GATEWAY_MANAGED_LABEL) in names.MANAGED_PROXIES:
        return True
    gateway = labels.get(names.GATEWAY_NAME_LABEL)
    return gateway is not None and world.waypoint((metadata.namespace, gateway)) is not None


def _allows(waypoint: Waypoint, namespace: str, world: World) -> bool:
    allowed = waypoint.allowed
    if allowed.from_ is FromNamespaces.ALL:
        return True
    if allowed.from_ is FromNamespaces.SELECTOR:
        known = world.namespace(namespace)
        labels = known.metadata.labels if known is not None else {}
        return allowed.selector is not None and allowed.selector.matches(labels)
    return allowed.from_ is FromNamespaces.SAME and waypoint.key[0] == namespace


def _ingress(metadata: Metadata, namespace: Namespace | None) -> bool | None:
    of_namespace = namespace.metadata.labels if namespace is not None else {}
    label = names.INGRESS_USE_WAYPOINT_LABEL
    given = metadata.labels.get(label, of_namespace.get(label))
    return None if given is None else given.lower() == "true"


_UNSUPPORTED: Final = "UnsupportedTrafficType"


def _not_ready(waypoint: Key) -> Problem:
    return Problem("WaypointIsNotReady", f'waypoint "{"/".join(waypoint)}" is not ready')


def _denied(waypoint: Key) -> Problem:
    name = "/".join(waypoint)
    return Problem("AttachmentDenied", f'waypoint "{name}" does not admit this namespace; see its allowedRoutes')


def _unsupported(waypoint: Key, wanted: Handles) -> Problem:
    return Problem(_UNSUPPORTED, f'waypoint "{"/".join(waypoint)}" does not handle traffic of type "{wanted}"')


def _forbidden(waypoint: Key) -> Problem:
    name = "/".join(waypoint)
    reason = "other namespaces do not see the ServiceEntry"
    return Problem("CrossNamespaceWaypointForbidden", f'waypoint "{name}" is in another namespace, and {reason}')
