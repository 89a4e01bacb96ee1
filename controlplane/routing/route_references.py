"""What routes of the Gateway API refer to: their parents, and backends. Pure.

Source: Gateway API v1, ``ParentReference`` and ``BackendObjectReference``; GEP-1324 (routes of a mesh). A parent in the
mesh is a Service or a ServiceEntry; its ``sectionName`` is the name of a port. Parents at the edge are in
``controlplane.routing.edge``. A backend is a Service, or (as in Istio) a host of a ServiceEntry, by kind ``Hostname``.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from controlplane.inputs.verdicts import Verdict
from controlplane.routing import edge
from controlplane.routing.edge import EdgeAttachment, EdgeLookups, RouteAtEdge
from controlplane.routing.ir import ConnectionRule, HttpRule, Target
from controlplane.routing.services import Port, Service
from meshapi.resources.gateway_routes import BackendReference, ParentReference
from meshkit.kube import Key

ISTIO_GROUP: Final = "networking.istio.io"
_PARENTS: Final = {"Service": "", "ServiceEntry": ISTIO_GROUP}
"""Kinds of parents in the mesh, with their groups."""


ACCEPTED: Final = Verdict(True, "Accepted", "the route is accepted")
RESOLVED: Final = Verdict(True, "ResolvedRefs", "all references are resolved")


@dataclass(frozen=True, slots=True)
class References:
    """How names in a route are resolved.

    Attributes:
        service: returns what an object of a kind (Service, ServiceEntry) and key is as a service; ``None``: there is
            none. Of a ServiceEntry with several hosts, any of them: they have the same ports.
        host: returns the service of a ServiceEntry's host.
        is_granted: whether an object of the route's kind and namespace may refer to a service of another namespace.
        edge: what attachments to gateways depend on.
    """

    service: Callable[[str, Key], Service | None]
    host: Callable[[str], Service | None]
    is_granted: Callable[[str, str, Key], bool]
    edge: EdgeLookups = field(default_factory=EdgeLookups)


@dataclass(frozen=True, slots=True)
class Attachment:
    """A route at one of its parents in the mesh.

    Attributes:
        parent: as the route names it.
        kind: the parent's.
        service: the parent's key.
        port: of the service; 0: all.
        client_namespace: whose clients it counts for; empty: all.
        accepted: condition ``Accepted``.
    """

    parent: ParentReference
    kind: str
    service: Key
    port: int
    client_namespace: str
    accepted: Verdict

    def is_covered_by(self, other: "Attachment") -> bool:
        """Return whether another route is attached to all ports that this one is, for the same clients."""
        same = (self.kind, self.service, self.client_namespace)
        return (
            other.accepted.is_true
            and same == (other.kind, other.service, other.client_namespace)
            and other.port in {0, self.port}
        )


@dataclass(frozen=True, slots=True)
class RouteRules:
    """What a route says.

    Attributes:
        kind: of the route.
        key: of the route.
        created: when; the older of two routes counts first.
        attachments: its parents in the mesh.
        rules: for requests, in the route's order.
        resolved: condition ``ResolvedRefs``.
        connections: rules for connections, in the route's order.
        edges: its parents at the edge.
    """

    kind: str
    key: Key
    created: str
    attachments: tuple[Attachment, ...] = ()
    rules: tuple[HttpRule, ...] = ()
    resolved: Verdict = RESOLVED
    connections: tuple[ConnectionRule, ...] = ()
    edges: tuple[EdgeAttachment, ...] = ()


@dataclass(slots=True)
class Resolution:
    """The references of one route.

    Attributes:
        kind: of the route.
        namespace: of the route.
        parents: as the route names them.
        references: how names are resolved.
        resolved: condition ``ResolvedRefs``, with the first reference that cannot be resolved. Set by the methods.
    """

    kind: str
    namespace: str
    parents: tuple[ParentReference, ...]
    references: References
    resolved: Verdict = RESOLVED

    def attachments(self, accepted: Verdict, fits: Callable[[Port], bool]) -> Iterator[Attachment]:
        """Yield the attachments to parents in the mesh.

        Args:
            accepted: of the route itself.
            fits: whether a route of this kind counts for a port.
        """
        for parent in self.parents:
            if _PARENTS.get(parent.kind) != parent.group:
                continue
            key = (parent.namespace or self.namespace, parent.name)
            service = self.references.service(parent.kind, key)
            port, fault = _port(parent, key, service, fits)
            verdict = Verdict(False, "NoMatchingParent", fault) if fault else accepted
            client = "" if key[0] == self.namespace else self.namespace
            yield Attachment(parent, parent.kind, key, port, client, verdict)

    def edges(self, accepted: Verdict, hostnames: Iterable[str]) -> tuple[EdgeAttachment, ...]:
        """Return the attachments to parents at the edge.

        Args:
            accepted: of the route itself.
            hostnames: of the route.
        """
        names = tuple(one.lower().rstrip(".") for one in hostnames)
        route = RouteAtEdge(self.kind, self.namespace, names, accepted)
        return tuple(edge.attachments(route, self.parents, self.references.edge))

    def target(self, backend: BackendReference) -> Target | None:
        """Return where a reference leads; ``None`` if nowhere, which the route's condition then says."""
        if backend.group == ISTIO_GROUP and backend.kind == "Hostname":
            return self._of_host(backend)
        key = (backend.namespace or self.namespace, backend.name)
        if backend.group or backend.kind != "Service":
            return self._unresolved("InvalidKind", f"{backend.group}/{backend.kind} is no kind of backends here")
        is_granted = self.references.is_granted
        if (
            key[0] != self.namespace
            and not self._is_only_parent(key)
            and not is_granted(self.kind, self.namespace, key)
        ):
            return self._unresolved("RefNotPermitted", f"no ReferenceGrant lets it refer to service {'/'.join(key)}")
        service = self.references.service("Service", key)
        if service is None or not self._serves(service, backend.port):
            return self._unresolved(
                "BackendNotFound", f"service {'/'.join(key)} with port {backend.port} does not exist"
            )
        return Target(service.host, backend.port)

    def _serves(self, service: Service, port: int) -> bool:
        return port in service.datagrams if self.kind == "UDPRoute" else service.serves(port)

    def _is_only_parent(self, service: Key) -> bool:
        """Return whether clients have called the service themselves: to send them there grants them nothing new."""
        named = {(one.group, one.kind, one.namespace or self.namespace, one.name) for one in self.parents}
        return named == {("", "Service", *service)}

    def _of_host(self, backend: BackendReference) -> Target | None:
        service = self.references.host(backend.name)
        if service is None or not service.serves(backend.port):
            return self._unresolved(
                "BackendNotFound", f"no ServiceEntry has the host {backend.name} with port {backend.port}"
            )
        return Target(service.host, backend.port)

    def _unresolved(self, reason: str, message: str) -> Target | None:
        if self.resolved.is_true:
            self.resolved = Verdict(False, reason, message)
        return None


def _port(parent: ParentReference, key: Key, service: Service | None, fits: Callable[[Port], bool]) -> tuple[int, str]:
    """Return the number of the port that a reference names, 0 for all, and what is wrong with it."""
    shown = f"{parent.kind.lower() if parent.kind == 'Service' else parent.kind} {'/'.join(key)}"
    if service is None:
        return parent.port, f"{shown} does not exist"
    named = [one for one in service.ports if parent.port in {0, one.number} and parent.section_name in {"", one.name}]
    if not named:
        wanted = f"port {parent.port}" if parent.port else f"port {parent.section_name}"
        return parent.port, f"{wanted} of {shown} does not exist"
    if not any(map(fits, named)):
        spoken = ", ".join(f"{one.number} ({one.protocol.value})" for one in named)
        return parent.port, f"{shown} speaks nothing that such a route is for on its ports: {spoken}"
    return (named[0].number if parent.port or parent.section_name else 0), ""
