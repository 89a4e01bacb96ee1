"""Routing as records: one for each rule, immutable, with a pointer back to the object that it came from.

Front ends (VirtualService, HTTPRoute, ...) make them and know no proxy; the back end turns them into a proxy's
configuration and knows no API. A rule with several alternative matches is several records.

Rules of the records:

1. Host names are complete, in lower case, without a final dot.
2. The first record that matches a request decides.
3. What is absent is ``None``, zero or empty, and then the proxy's default counts.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum

from meshkit.kube import Key


@dataclass(frozen=True, slots=True)
class Origin:
    """The rule of an object that a record came from.

    Attributes:
        kind: name of the kind.
        key: the object.
        rule: path of the rule, as ``spec.http[0]``.
    """

    kind: str
    key: Key
    rule: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {'/'.join(self.key)} {self.rule}".rstrip()


class Comparison(Enum):
    """How a text is compared."""

    EXACT = "exact"
    PREFIX = "prefix"
    PATH_PREFIX = "path prefix"
    """By whole segments of a path."""
    REGEX = "regex"
    PRESENT = "present"
    """Any text, if there is one."""


@dataclass(frozen=True, slots=True)
class TextMatch:
    """What a text must be like."""

    comparison: Comparison
    value: str = ""
    ignores_case: bool = False


@dataclass(frozen=True, slots=True)
class NamedMatch:
    """What a header or a parameter must be like.

    Attributes:
        name: of the header, in lower case, or of the parameter.
        text: what the value must be like.
        is_inverted: whether the match must fail; then an absent header matches.
    """

    name: str
    text: TextMatch
    is_inverted: bool = False


@dataclass(frozen=True, slots=True)
class ClaimMatch:
    """What a claim of the request's token must be like.

    Attributes:
        path: names of the claims, outermost first.
        text: what the value, or one value of a list, must be like.
        is_inverted: whether the match must fail.
    """

    path: tuple[str, ...]
    text: TextMatch
    is_inverted: bool = False


@dataclass(frozen=True, slots=True)
class RequestMatch:
    """What a request must be like: everything that is given."""

    path: TextMatch | None = None
    method: TextMatch | None = None
    scheme: TextMatch | None = None
    authority: TextMatch | None = None
    headers: tuple[NamedMatch, ...] = ()
    query: tuple[NamedMatch, ...] = ()
    claims: tuple[ClaimMatch, ...] = ()
    source_namespace: str = ""

    @property
    def is_catch_all(self) -> bool:
        """Whether every request matches, by Istio's definition: other fields than these do not count there."""
        narrow = (
            *(self.headers or self.query or self.claims or ()),
            self.method or self.scheme or self.authority or self.source_namespace,
        )
        return not any(narrow) and (self.path is None or self.path in _EVERY_PATH)


_EVERY_PATH = (
    TextMatch(Comparison.PREFIX, "/"),
    TextMatch(Comparison.PATH_PREFIX, "/"),
    TextMatch(Comparison.REGEX, ".*"),
)


@dataclass(frozen=True, slots=True)
class HeaderChanges:
    """Changes of headers: removals first, then replacements, then additions; in the order of names."""

    replaced: tuple[tuple[str, str], ...] = ()
    added: tuple[tuple[str, str], ...] = ()
    removed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.replaced or self.added or self.removed)


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests or connections go.

    Attributes:
        host: of a service.
        port: of the service; 0: the only one it has, else the one that was called.
        subset: named by the host's DestinationRule; empty: all endpoints.
        viewer: namespace that has to see the service; empty: visibility is not checked, or has been.
        is_sealed: whether connections carry the client's TLS with the endpoint, to which none is added.
    """

    host: str
    port: int = 0
    subset: str = ""
    viewer: str = ""
    is_sealed: bool = False


@dataclass(frozen=True, slots=True)
class Share:
    """One of the targets among which requests are divided.

    Attributes:
        target: where they go; ``None``: nowhere, they are answered with 500.
        weight: relative to the others'.
        request: changes of the request's headers.
        response: changes of the response's headers.
        host: new host of the request; empty: as it is.
    """

    target: Target | None
    weight: int = 1
    request: HeaderChanges = HeaderChanges()
    response: HeaderChanges = HeaderChanges()
    host: str = ""


@dataclass(frozen=True, slots=True)
class Forward:
    """Sends requests on."""

    shares: tuple[Share, ...]


class PathChange(Enum):
    """Which part of a path is replaced."""

    PREFIX = "prefix"
    FULL = "full"
    REGEX = "regex"


@dataclass(frozen=True, slots=True)
class PathRewrite:
    """Changes a path.

    Attributes:
        change: which part.
        value: what is written instead.
        pattern: with ``REGEX``, what is replaced.
    """

    change: PathChange
    value: str
    pattern: str = ""


class PortSource(Enum):
    """Where the port of a redirect comes from."""

    HOST = "host"
    """The request's host, unchanged."""
    SCHEME = "scheme"
    """The scheme's own; none is written."""
    CALLED = "called"
    """The port that the client has called."""


@dataclass(frozen=True, slots=True)
class Redirect:
    """Answers with a redirect.

    Attributes:
        status: 301, 302, 303, 307 or 308.
        scheme: new one; empty: as it is.
        host: new one; empty: as it is.
        port: new one; 0: see ``port_source``.
        port_source: where the port comes from, if none is given.
        path: how the path changes.
    """

    status: int = 301
    scheme: str = ""
    host: str = ""
    port: int = 0
    port_source: PortSource = PortSource.HOST
    path: PathRewrite | None = None


@dataclass(frozen=True, slots=True)
class Respond:
    """Answers at once."""

    status: int
    body: bytes = b""


Action = Forward | Redirect | Respond


@dataclass(frozen=True, slots=True)
class Retry:
    """Sends failed requests again.

    Attributes:
        attempts: how often at most; 0: never.
        on: conditions, as Envoy names them.
        statuses: of responses after which a request is sent again.
        per_try_timeout: of each attempt.
        backoff: base of the exponential backoff.
        may_repeat_endpoint: whether an endpoint that has failed may be chosen again.
    """

    attempts: int = 2
    on: tuple[str, ...] = ("connect-failure", "refused-stream", "unavailable", "cancelled")
    statuses: tuple[int, ...] = ()
    per_try_timeout: timedelta | None = None
    backoff: timedelta | None = None
    may_repeat_endpoint: bool = False


@dataclass(frozen=True, slots=True)
class Delay:
    """Delays a share of the requests, in millionths."""

    duration: timedelta
    millionths: int


@dataclass(frozen=True, slots=True)
class Abort:
    """Answers a share of the requests, in millionths, with an HTTP status or a gRPC status."""

    millionths: int
    http_status: int = 0
    grpc_status: int | None = None


@dataclass(frozen=True, slots=True)
class Mirror:
    """Sends copies of a share of the requests, in millionths, elsewhere."""

    target: Target
    millionths: int = 1_000_000


@dataclass(frozen=True, slots=True)
class Cors:
    """Cross-origin resource sharing."""

    origins: tuple[TextMatch, ...] = ()
    methods: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    exposed: tuple[str, ...] = ()
    max_age: timedelta | None = None
    allows_credentials: bool | None = None
    forwards_unmatched_preflights: bool = True


@dataclass(frozen=True, slots=True)
class Session:
    """Keeps the requests of a client at one endpoint.

    Attributes:
        name: of the cookie or header that says which one.
        is_header: whether it is a header.
        lifetime: of the cookie; ``None``: as long as the client's own session.
    """

    name: str
    is_header: bool = False
    lifetime: timedelta | None = None


@dataclass(frozen=True, slots=True)
class HttpRule:
    """What is done with the requests that match.

    Attributes:
        origin: where the rule came from.
        match: what requests must be like.
        action: what is done.
        name: for logs and statistics.
        port: that clients have called; 0: any.
        timeout: of the whole request; ``None``: none.
        retry: ``None``: the mesh's default.
        rewrite: of the path.
        host: new host of the request; empty: as it is.
        request: changes of the request's headers.
        response: changes of the response's headers.
        missing_status: of the answer where a target does not exist.
        via: the rule of the object that has delegated to the one of ``origin``.
        session: goes before that of the target.
    """

    origin: Origin
    match: RequestMatch
    action: Action
    name: str = ""
    port: int = 0
    timeout: timedelta | None = None
    retry: Retry | None = None
    rewrite: PathRewrite | None = None
    host: str = ""
    request: HeaderChanges = HeaderChanges()
    response: HeaderChanges = HeaderChanges()
    delay: Delay | None = None
    abort: Abort | None = None
    mirrors: tuple[Mirror, ...] = ()
    cors: Cors | None = None
    stat_prefix: str = ""
    missing_status: int = 503
    via: Origin | None = None
    session: Session | None = None


@dataclass(frozen=True, slots=True)
class ConnectionRule:
    """Where the connections that match go.

    Attributes:
        origin: where the rule came from.
        shares: the targets.
        port: that clients have called; 0: any.
        subnets: of addresses that clients have called; none: any.
        server_names: of TLS connections, with ``*.`` for any label; none: of all connections.
        source_namespace: of the clients; empty: all.
    """

    origin: Origin
    shares: tuple[Share, ...]
    port: int = 0
    subnets: tuple[str, ...] = ()
    server_names: tuple[str, ...] = ()
    source_namespace: str = ""


@dataclass(frozen=True, slots=True)
class Routing:
    """What one object says.

    Attributes:
        hosts: whose requests it routes; complete names, or wildcards.
        http: rules for requests.
        tls: rules for TLS connections that are passed through.
        tcp: rules for other connections.
        problems: what was left out, and why; as the object's status says it.
    """

    hosts: tuple[str, ...] = ()
    http: tuple[HttpRule, ...] = ()
    tls: tuple[ConnectionRule, ...] = ()
    tcp: tuple[ConnectionRule, ...] = ()
    problems: tuple[str, ...] = field(default=())
