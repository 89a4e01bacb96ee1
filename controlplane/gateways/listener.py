"""The listeners of gateways, as everything else sees them, whichever kind of object they come from."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from controlplane.inputs.verdicts import Verdict
from meshapi import hosts
from meshapi.mesh_config.model import GatewayTopology
from meshapi.resources.gateway import RouteNamespaces
from meshkit.kube import Key

ListenerId = tuple[str, Key, str]
"""Kind of the object that has a listener (Gateway, ListenerSet), its key, and the listener's name."""
ACCEPTED: Final = Verdict(True, "Accepted", "No errors found")
RESOLVED: Final = Verdict(True, "ResolvedRefs", "No errors found")
NO_CONFLICTS: Final = Verdict(False, "NoConflicts", "No errors found")


class Spoken(Enum):
    """What is spoken on a listener, and who ends TLS."""

    HTTP = "HTTP"
    HTTPS = "HTTPS"
    TLS = "TLS"
    PASSTHROUGH = "TLS passthrough"
    AUTO_PASSTHROUGH = "TLS auto passthrough"
    """The server name says which service is called, without a route."""
    TCP = "TCP"
    UDP = "UDP"

    @property
    def is_http(self) -> bool:
        """Whether requests are routed, not connections."""
        return self in {Spoken.HTTP, Spoken.HTTPS}

    @property
    def ends_tls(self) -> bool:
        """Whether the gateway needs a certificate."""
        return self in {Spoken.HTTPS, Spoken.TLS}

    @property
    def has_tls(self) -> bool:
        """Whether clients send the name of a server before anything is chosen."""
        return self.ends_tls or self in {Spoken.PASSTHROUGH, Spoken.AUTO_PASSTHROUGH}


_NAMES: Final = {
    Spoken.HTTPS: "https",
    Spoken.TLS: "tls",
    Spoken.PASSTHROUGH: "tls",
    Spoken.AUTO_PASSTHROUGH: "tls",
    Spoken.UDP: "udp",
}
"""How names of listeners begin."""


class Demand(Enum):
    """What clients have to show."""

    VALID = "valid"
    """A certificate that is valid."""
    VALID_IF_ANY = "valid if any"
    """A certificate that is valid, or none."""
    ANYTHING = "anything"
    """Clients without a valid certificate are served, too."""


@dataclass(frozen=True, slots=True)
class ClientCheck:
    """How certificates of clients are checked.

    Attributes:
        roots: certificates of the trusted authorities, PEM; empty: no certificate is trusted, or see below.
        demand: what clients have to show.
        secret: Secret with the roots, instead.
        file: SDS name of roots in a file of the gateway's pods, instead.
        is_mesh: whether the roots are the mesh's, instead.
        names: of which a certificate has to have one; none: any name.
        keys: SHA-256 of public keys, in base64, of which a certificate has to have one; none: any key.
        hashes: SHA-256 of certificates, in hex, likewise.
    """

    roots: str = ""
    demand: Demand = Demand.VALID
    secret: Key | None = None
    file: str = ""
    is_mesh: bool = False
    names: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    hashes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServerTls:
    """TLS towards clients, besides the certificates in Secrets.

    Attributes:
        oldest: version, as Envoy names it.
        newest: version; empty: the newest that Envoy knows.
        ciphers: for TLS 1.2 and older; none: Envoy's.
        files: SDS names of certificates in files of the gateway's pods.
        is_mesh: whether the certificate is the one of the gateway's own identity.
    """

    oldest: str = "TLSv1_2"
    newest: str = ""
    ciphers: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    is_mesh: bool = False


@dataclass(frozen=True, slots=True)
class EdgeListener:
    """A listener of a gateway.

    Attributes:
        owner_kind: kind of the object that has it.
        owner: the object.
        name: of the listener.
        port: of the gateway's Service and pods.
        spoken: ``None``: a protocol that is not supported.
        hostname: that it is for, with ``*.`` for any labels; empty: all.
        kinds: of routes that may attach.
        allowed: namespaces from which routes may attach.
        certificates: Secrets that can be used.
        clients: ``None``: clients need no certificate.
        tls: more of TLS.
        target: port that pods listen on; 0: ``port``.
        bind: address that pods listen on; empty: all.
        routes: name of its routes; empty: as for listeners of the Gateway API.
        scope: namespace of the VirtualServices that may have its hosts; ``*``: any.
        redirects: whether plain requests are redirected to HTTPS.
        accepted: condition ``Accepted``.
        conflicted: condition ``Conflicted``; true where there is a conflict.
        resolved: condition ``ResolvedRefs``.
    """

    owner_kind: str
    owner: Key
    name: str
    port: int
    spoken: Spoken | None
    hostname: str = ""
    kinds: tuple[str, ...] = ()
    allowed: RouteNamespaces = field(default_factory=RouteNamespaces)
    certificates: tuple[Key, ...] = ()
    clients: ClientCheck | None = None
    tls: ServerTls = ServerTls()
    target: int = 0
    bind: str = ""
    routes: str = ""
    scope: str = "*"
    redirects: bool = False
    accepted: Verdict = ACCEPTED
    conflicted: Verdict = NO_CONFLICTS
    resolved: Verdict = RESOLVED

    @property
    def id(self) -> ListenerId:
        """What names it."""
        return (self.owner_kind, self.owner, self.name)

    @property
    def is_served(self) -> bool:
        """Whether the proxy gets it."""
        if self.spoken is None or not self.accepted.is_true or self.conflicted.is_true:
            return False
        return bool(self.certificates or self.tls.files or self.tls.is_mesh) or not self.spoken.ends_tls

    @property
    def fault(self) -> Verdict | None:
        """What is wrong with it: why it is not served, else what of it cannot be used; ``None``: nothing."""
        return next((one for one in (self.accepted, self.resolved) if not one.is_true), None)

    @property
    def socket(self) -> tuple[int, str]:
        """Port and address that pods listen on."""
        return self.target or self.port, self.bind

    @property
    def routes_name(self) -> str:
        """Name of its routes: as in Istio, one for all plain listeners of a port, and one for each other listener."""
        if self.routes:
            return self.routes
        if self.spoken is Spoken.HTTP:
            return f"http.{self.port}"
        kind = _NAMES.get(self.spoken, "tcp") if self.spoken is not None else "tcp"
        namespace, name = self.owner
        return f"{kind}.{self.port}.default.{name}-istio-autogenerated-k8s-gateway-{self.name}.{namespace}"


@dataclass(frozen=True, slots=True)
class EdgeGateway:
    """A gateway at the edge.

    Attributes:
        key: of its Gateway; where it is made of Gateways of Istio's API, a name of its own.
        workload: name of its Deployment and Service.
        service_account: that its pods run as.
        labels: of its pods, as pairs; none where its user runs it.
        service: of the pods, where its user runs it.
        listeners: its own, then those of its ListenerSets, the oldest first.
        listener_sets: those that are attached to it.
        secrets: Secrets that its listeners may use, usable or not.
        config_maps: ConfigMaps that it may use, with roots of clients' certificates.
        client_certificate: Secret with which it proves itself to backends that a BackendTLSPolicy is for.
        resolved: condition ``ResolvedRefs`` of the Gateway; ``None``: it refers to nothing.
        merged: Gateways of Istio's API that it is made of, the oldest first; none: it is one of the Gateway API.
        topology: what is in front of it, by its pods' annotation; ``None``: the mesh configuration says it.
        problems: what of that annotation cannot be read or has no effect.
    """

    key: Key
    workload: str
    service_account: str
    labels: frozenset[tuple[str, str]] = frozenset()
    service: Key | None = None
    listeners: tuple[EdgeListener, ...] = ()
    listener_sets: tuple[Key, ...] = ()
    secrets: frozenset[Key] = frozenset()
    config_maps: frozenset[Key] = frozenset()
    client_certificate: Key | None = None
    resolved: Verdict | None = None
    merged: tuple[Key, ...] = ()
    topology: GatewayTopology | None = None
    problems: tuple[str, ...] = ()

    @property
    def served(self) -> tuple[EdgeListener, ...]:
        """The listeners that the proxy gets."""
        return tuple(one for one in self.listeners if one.is_served)

    def port_of(self, routes_name: str) -> int:
        """Return the port that clients call, by the first of the served listeners that share routes.

        Hosts are routed once, whichever of the ports is called.
        """
        return next(one.port for one in self.served if one.routes_name == routes_name)

    def of(self, kind: str, key: Key) -> tuple[EdgeListener, ...]:
        """Return the listeners of an object."""
        return tuple(one for one in self.listeners if (one.owner_kind, one.owner) == (kind, key))


def intersection(one: str, other: str) -> str | None:
    """Return the hosts that two patterns have in common, empty for all; ``None``: there are none."""
    if not one or not other or one == other:
        return one or other
    if hosts.matches(one, other):
        return other
    return one if hosts.matches(other, one) else None


def owner_of(hostname: str, among: tuple[str, ...]) -> str | None:
    """Return which of several patterns gets the requests for a host or pattern: the most specific one that fits.

    Args:
        hostname: empty: all hosts.
        among: the patterns; empty ones are for all hosts.
    """
    fitting = [one for one in among if not one or (hostname and intersection(one, hostname) == hostname)]
    return max(fitting, key=lambda one: (bool(one), not one.startswith("*"), len(one)), default=None)
