"""From Gateways of Istio's API to the one gateway that a place is: their servers, merged. Pure.

Facts: Istio's ``pilot/pkg/model/gateway.go``. Servers are taken in the order of their Gateways' age. A server that
cannot stand beside an earlier one at the same port and address is left out, whole; its Gateway's condition says so.
Plain HTTP servers share the routes of their port. A server's port is the Service's; pods listen on the port that it
leads to.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from controlplane.gateways import credentials, ingresses, reading
from controlplane.gateways.listener import EdgeGateway, EdgeListener, Spoken
from controlplane.gateways.place import Place
from controlplane.gateways.references import References
from controlplane.inputs.verdicts import Verdict
from meshapi.mesh_config import proxy_annotation
from meshapi.resources.istio_gateway import (
    Gateway,
    Server,
    TlsMode,
    can_share_port,
    contested_hosts,
    server_host,
)

KIND: Final = "Gateway.networking.istio.io"
"""Kind of the listeners' owners: another one than the Gateway API's."""
_CONFLICT: Final = "ServerConflict"
_Socket = tuple[int, str]


@dataclass(frozen=True, slots=True)
class _Served:
    """A server at one port of the pods.

    Attributes:
        gateway: that has it.
        index: its position.
        server: as the user writes it.
        target: port that pods listen on.
        spoken: what is spoken there.
    """

    gateway: Gateway
    index: int
    server: Server
    target: int
    spoken: Spoken

    @property
    def socket(self) -> _Socket:
        return self.target, self.server.bind


def merged(
    place: Place, gateways: Iterable[Gateway], ports: Mapping[int, frozenset[int]], resolve: References
) -> EdgeGateway:
    """Return the gateway that pods are.

    Args:
        place: the pods.
        gateways: whose selectors match them.
        ports: ports of the pods by ports of their Services.
        resolve: how references are resolved.
    """
    ordered = sorted(gateways, key=lambda one: one.metadata.age)
    taken: dict[_Socket, list[_Served]] = {}
    listeners: list[EdgeListener] = []
    for one in (served for gateway in ordered for served in _served(gateway, ports)):
        beside = taken.setdefault(one.socket, [])
        refused = _refusal(one) or _conflict(one, beside)
        if refused is None:
            beside.append(one)
        listeners += _listeners(one, refused, place, resolve)
    config = proxy_annotation.read(place.proxy_config)
    return EdgeGateway(
        place.key,
        place.workload,
        place.account,
        labels=place.labels,
        listeners=tuple(listeners),
        secrets=frozenset(resolve.secrets),
        merged=tuple(one.key for one in ordered),
        topology=config.topology,
        problems=config.problems,
    )


def _served(gateway: Gateway, ports: Mapping[int, frozenset[int]]) -> Iterator[_Served]:
    for index, server in enumerate(gateway.spec.servers):
        for target in sorted(ports.get(server.port.number, ())) or [server.port.number]:
            yield _Served(gateway, index, server, target, _spoken(server))


def _spoken(server: Server) -> Spoken:
    port, tls = server.port, server.tls
    if not port.has_tls or tls is None:
        return Spoken.HTTP if port.is_http else Spoken.TCP
    if tls.mode.is_passthrough:
        return Spoken.AUTO_PASSTHROUGH if tls.mode is TlsMode.AUTO_PASSTHROUGH else Spoken.PASSTHROUGH
    return Spoken.HTTPS if port.protocol == "HTTPS" else Spoken.TLS


def _refusal(one: _Served) -> Verdict | None:
    """Return why a server can never be served; ``None``: it can."""
    if one.target in reading.RESERVED_PORTS:
        return Verdict(False, "PortUnavailable", f"port {one.target} of the pods is taken by the gateway itself")
    return None


def _conflict(one: _Served, beside: Sequence[_Served]) -> Verdict | None:
    """Return why a server cannot stand beside earlier ones of its port and address; ``None``: it can."""
    for other in beside:
        shown = f"{_shown(other, one)} at port {one.target} of the pods"
        if not can_share_port(one.server, other.server):
            speaks = other.server.port.protocol
            return Verdict(False, _CONFLICT, f"{shown} is older and speaks {speaks}; give this one another port")
        if same := contested_hosts(one.server, other.server):
            hosts = ", ".join(sorted(same))
            return Verdict(False, _CONFLICT, f"{shown} is older and has {hosts}, too; give each host to one server")
    return None


def _shown(other: _Served, one: _Served) -> str:
    here = f"servers[{other.index}]"
    return here if other.gateway.key == one.gateway.key else f"{here} of {ingresses.shown(other.gateway.key)}"


def _listeners(one: _Served, refused: Verdict | None, place: Place, resolve: References) -> Iterator[EdgeListener]:
    """Yield a listener for each host of a server."""
    server, owner = one.server, one.gateway.key
    common = EdgeListener(
        KIND,
        owner,
        f"servers[{one.index}]",
        server.port.number,
        one.spoken,
        target=one.target,
        bind=server.bind,
        routes=_routes(one),
        redirects=server.tls is not None and server.tls.https_redirect,
    )
    if refused is not None:
        common = replace(common, accepted=refused)
    elif server.tls is not None:
        common = credentials.with_tls(common, server.tls, place.namespace, resolve)
    for scope, name in dict.fromkeys(server_host(host, owner[0]) for host in server.hosts):
        yield replace(common, scope=scope, hostname="" if name == "*" else name)


def _routes(one: _Served) -> str:
    """Return the name of a server's routes, or of its filter chains: Istio's (``GatewayRDSRouteName``)."""
    port, (namespace, name) = one.server.port, one.gateway.key
    if one.spoken is Spoken.HTTP:
        return f"http.{one.target}.{one.server.bind}" if one.server.bind else f"http.{one.target}"
    kind = {Spoken.HTTPS: "https", Spoken.TCP: "tcp"}.get(one.spoken, "tls")
    return f"{kind}.{port.number}.{port.name}.{name}.{namespace}"
