"""The format of scenarios: services, what users configure, requests, and what client and servers must see.

A scenario is judged by any proxy that speaks the xDS v3 of the control plane; nothing in a file names one.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

FOLDER = Path(__file__).parent


class Part(BaseModel):
    """A part of a file: a field that is not known is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Behaviour(Part):
    """What a pod's server does."""

    status: int = 200
    """Of all its answers."""
    fails: int = 0
    """How many requests are answered with ``failure``, before ``status`` is."""
    failure: int = 503
    delay_s: float = 0
    headers: dict[str, str] = {}
    """Of its answers."""
    body: str = ""
    """Of its answers; empty: what it has seen, as JSON."""
    requires: dict[str, str] = {}
    """Headers without which a request is answered with 403, as an external authorizer does."""
    tls: tuple[str, ...] = ()
    """Names of its certificate; none: it does not speak TLS."""
    mutual: bool = False
    """Whether it demands a client's certificate."""
    captured: bool = False
    """Whether the pod is reached over HBONE."""
    tunnel: bool = False
    """Whether somebody takes tunnels for it, and so it is captured."""
    speaks_first: bool = False
    """Whether its servers on TCP ports send ``hello`` before they read."""
    repeats: bool = False
    """Whether its servers on TCP ports send back what they get until the end, line by line."""
    address: str = ""
    """Its address, instead of one of its own."""
    ipv6: bool = False
    """Whether it has an address of IPv6, too: ``fd00:10::`` and the last two numbers of its other one."""
    host_network: bool = False
    collects: bool = False
    """Whether it takes log records and spans instead: each is a line of JSON in ``$FILES/collected.log``."""
    labels: dict[str, str] = {}
    node: str = "node-1"


class Service(Part):
    """A service with its pods; each pod is a version of its own and has the label ``version``."""

    ports: dict[str, int] = {"http": 8080}
    namespace: str = "default"
    spec: dict[str, Any] = {}
    """More of the service."""
    pods: dict[str, Behaviour] = {"v1": Behaviour()}


class ClientTls(Part):
    """TLS of a client outside of the mesh; it trusts the certificates of ``$CA`` only."""

    name: str = ""
    """Of the server, which is sent and checked; empty: the request's host."""
    certificate: str = ""
    """The certificate that it shows: ``client`` or ``revoked`` of ``$CA``, ``stranger`` of ``$OTHER_CA``; or ``mesh``:
    the identity of service account ``caller`` of namespace ``shop``."""
    anyone: bool = False
    """Whether the server's certificate may have any name."""
    newest: str = ""
    """Version of TLS that is the newest it speaks, as ``TLSv1_2``."""
    ciphers: str = ""
    """That it offers, as OpenSSL writes them; for TLS 1.2."""


class Request(Part):
    """A request, or several equal ones, of a client in the mesh; with a gateway, of one outside."""

    to: str = ""
    """Service, as ``reviews`` or ``reviews.shop``."""
    tls: ClientTls | None = None
    """Of a client outside."""
    port: int = 0
    """Of the service; 0: its first one."""
    at: str = ""
    """Address and port that are called instead of the service's."""
    method: str = "GET"
    path: str = "/"
    headers: dict[str, str] = {}
    host: str = ""
    """Instead of the service's name."""
    body: str = ""
    session: str = ""
    """What each request sends back of the first answer: ``cookie``, or the name of a header."""
    times: int = 1
    parallel: int = 1
    """How many at a time."""
    namespace: str = "default"
    """Of the client."""
    account: str = "client"
    """Service account of the client."""
    token: dict[str, Any] | None = None
    """Claims of a token in the header Authorization; those that are not given are good ones."""
    forged: bool = False
    """Whether another issuer has signed the token."""
    token_in: str = "header Authorization Bearer"
    """Where the token is: ``header NAME [PREFIX]``, ``param NAME`` or ``cookie NAME``."""
    raw: str = ""
    """Bytes to send instead, to a port that does not speak HTTP."""
    tls_name: str = ""
    """The beginning of TLS with this server name to send instead, to a port that does not speak HTTP."""
    alpn: tuple[str, ...] = ()
    """Protocols that are offered there."""
    datagram: str = ""
    """What to send in one datagram instead."""
    listens: bool = False
    """Whether it sends its bytes only after the server has said something."""


class Expected(Part):
    """What the client must get."""

    status: int | None = 200
    """``None``: the connection fails, or there is no HTTP."""
    statuses: dict[int, Annotated[list[int], Field(min_length=2, max_length=2)]] = {}
    """Status to the least and greatest number of answers with it."""
    by: str | None = None
    """Version that answers all."""
    shares: dict[str, float] = {}
    """Version to its share of the answers, within a binomial bound."""
    same: bool = False
    """Whether one pod, whichever, answers all."""
    same_but: str = ""
    """One pod answers all that this version does not answer, and both answer some."""
    headers: dict[str, str | None] = {}
    """``None``: the header must not be there."""
    matches: dict[str, str] = {}
    """Header of the first answer to a regular expression for all of it."""
    body: str | None = None
    contains: str | None = None
    names: tuple[str, ...] | None = None
    """In the certificate that the server shows; none: it refuses to speak TLS."""
    takes_s: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    """Least and greatest time of each request."""


class Seen(Part):
    """What a server must have seen of the request."""

    by: str = ""
    """Version; empty: any pod of any service."""
    service: str = ""
    count: int | None = None
    at_least: int | None = None
    at_most: int | None = None
    method: str | None = None
    path: str | None = None
    headers: dict[str, str | None] = {}
    body: str | None = None


class Node(Part):
    """Where a node is."""

    region: str = ""
    zone: str = ""
    subzone: str = ""


class Logged(Part):
    """Lines that the requests of the step must have left in an access log."""

    file: str = "access.log"
    """In the folder that resources call ``$FILES``."""
    count: int = 1
    """How many lines are so, not more and not fewer."""
    matches: str = ""
    """Regular expression for the whole line; empty: any."""
    fields: dict[str, Any] = {}
    """Fields of a line that is JSON; ``None``: it must not have the field."""


class Step(Part):
    """A request and its outcome; or more configuration, which replaces or (``removed``) removes objects."""

    send: Request | None = None
    get: Expected = Expected()
    seen: tuple[Seen, ...] = ()
    tunnelled: tuple[str, ...] | None = None
    """Where tunnels to pods were asked to go, each once; ``None``: it does not matter."""
    waypoint_for: str = ""
    """New label of the waypoint; empty: as before."""
    logs: tuple[Logged, ...] = ()
    metrics: dict[str, int | None] = {}
    """Part of a line of metrics, as ``istio_requests_total{``, to how many lines have it; ``None``: at least one."""
    mesh: dict[str, Any] | None = None
    """Another mesh configuration."""
    annotations: dict[str, str] | None = None
    """Other annotations of the gateway's pod."""
    apply: tuple[dict[str, Any], ...] = ()
    remove: tuple[str, ...] = ()
    """Objects, as ``VirtualService/reviews``, or ``VirtualService/shop/reviews``."""


class Scenario(Part):
    """One file."""

    about: str
    services: dict[str, Service] = {"httpbin": Service()}
    resources: tuple[dict[str, Any], ...] = ()
    gateway: bool | Literal["istio"] = False
    """Whether the proxy is the Gateway ``gateway`` of the namespace ``default``, which is among the resources; with
    ``istio``, it is a pod of the namespace ``istio-system`` with the label ``istio: ingressgateway``."""
    annotations: dict[str, str] = {}
    """Of that pod."""
    namespaces: dict[str, dict[str, str]] = {}
    """Further namespaces, with labels."""
    waypoint_for: str = ""
    """Traffic to what goes through the waypoint: its label ``istio.io/waypoint-for``."""
    nodes: dict[str, Node] = {"node-1": Node()}
    """The proxy is on the first one."""
    mesh: dict[str, Any] = {}
    """Mesh configuration."""
    names: dict[str, str] = {}
    """What names resolve to in the proxy's pod: an address for each."""
    problems: dict[str, str] = {}
    """Object, as ``VirtualService/reviews``, to a part of the message of its condition; empty: nothing is wrong."""
    steps: tuple[Step, ...]


def names() -> list[str]:
    """Return the names of all scenarios: their paths without suffix."""
    return sorted(str(file.relative_to(FOLDER).with_suffix("")) for file in FOLDER.rglob("*.yaml"))


def load(name: str) -> Scenario:
    """Read a scenario."""
    return Scenario.model_validate(yaml.safe_load((FOLDER / f"{name}.yaml").read_text()))
