"""``gateway.networking.k8s.io``: routes and ReferenceGrant.

Source: sigs.k8s.io/gateway-api, apis/v1/httproute_types.go, grpcroute_types.go, tcproute_types.go, tlsroute_types.go,
udproute_types.go and referencegrant_types.go, with the fields of the experimental channel. Its own definitions check
values at the API server, so only types are checked here.
"""

from enum import StrEnum
from typing import Any

from pydantic import Field

from meshapi.resources.base import Model, ModelObject
from meshapi.resources.gateway import GROUP
from meshapi.resources.values import Duration


class ParentReference(Model):
    """What a route is attached to: a Gateway, or with a mesh a Service or ServiceEntry."""

    group: str = GROUP
    kind: str = "Gateway"
    namespace: str = ""
    name: str
    section_name: str = ""
    port: int = 0


class BackendReference(Model):
    """Where requests go."""

    group: str = ""
    kind: str = "Service"
    name: str
    namespace: str = ""
    port: int = 0
    weight: int = 1


class Header(Model):
    """A header with its value."""

    name: str
    value: str = ""


class HeaderFilter(Model):
    """Changes of headers."""

    set: tuple[Header, ...] = ()
    add: tuple[Header, ...] = ()
    remove: tuple[str, ...] = ()


class PathModifierType(StrEnum):
    """Which part of a path is replaced."""

    FULL = "ReplaceFullPath"
    PREFIX = "ReplacePrefixMatch"


class PathModifier(Model):
    """Replaces a path, or its matched prefix."""

    type: PathModifierType
    replace_full_path: str = ""
    replace_prefix_match: str = ""


class RedirectFilter(Model):
    """Answers with a redirect."""

    scheme: str = ""
    hostname: str = ""
    path: PathModifier | None = None
    port: int = 0
    status_code: int = 302


class RewriteFilter(Model):
    """Changes what is called."""

    hostname: str = ""
    path: PathModifier | None = None


class Fraction(Model):
    """A share."""

    numerator: int
    denominator: int = 100


class MirrorFilter(Model):
    """Sends copies of requests elsewhere."""

    backend_ref: BackendReference
    percent: int | None = None
    fraction: Fraction | None = None


class CorsFilter(Model):
    """Cross-origin resource sharing; ``*`` in a list stands for anything."""

    allow_origins: tuple[str, ...] = ()
    allow_credentials: bool = False
    allow_methods: tuple[str, ...] = ()
    allow_headers: tuple[str, ...] = ()
    expose_headers: tuple[str, ...] = ()
    max_age: int = 5


class Filter(Model):
    """One filter; which of the fields counts is said by ``type``."""

    type: str
    request_header_modifier: HeaderFilter | None = None
    response_header_modifier: HeaderFilter | None = None
    request_redirect: RedirectFilter | None = None
    url_rewrite: RewriteFilter | None = None
    request_mirror: MirrorFilter | None = None
    cors: CorsFilter | None = None
    extension_ref: dict[str, Any] | None = None


class RouteBackend(BackendReference):
    """Where requests go, with filters for those that go there."""

    filters: tuple[Filter, ...] = ()


class MatchType(StrEnum):
    """How a value is compared."""

    EXACT = "Exact"
    PATH_PREFIX = "PathPrefix"
    REGEX = "RegularExpression"


class PathMatch(Model):
    """What a path must be like."""

    type: MatchType = MatchType.PATH_PREFIX
    value: str = "/"


class NameMatch(Model):
    """What a header or a parameter must be like."""

    type: MatchType = MatchType.EXACT
    name: str
    value: str = ""


class HTTPRouteMatch(Model):
    """What a request must be like: all given fields must match."""

    path: PathMatch | None = None
    headers: tuple[NameMatch, ...] = ()
    query_params: tuple[NameMatch, ...] = ()
    method: str = ""


class Timeouts(Model):
    """Timeouts of a request and of each attempt; 0s: none."""

    request: Duration | None = None
    backend_request: Duration | None = None


class RouteRetry(Model):
    """Sends failed requests again."""

    codes: tuple[int, ...] = ()
    attempts: int | None = None
    backoff: Duration | None = None


class SessionType(StrEnum):
    """Where a session is noted."""

    COOKIE = "Cookie"
    HEADER = "Header"


class CookieLifetime(StrEnum):
    """How long a client keeps a cookie."""

    PERMANENT = "Permanent"
    SESSION = "Session"


class CookieConfig(Model):
    """The cookie of a session."""

    lifetime_type: CookieLifetime = CookieLifetime.SESSION


class SessionPersistence(Model):
    """Keeps the requests of a client at one endpoint."""

    session_name: str = ""
    absolute_timeout: Duration | None = None
    type: SessionType = SessionType.COOKIE
    cookie_config: CookieConfig | None = None


class HTTPRouteRule(Model):
    """Requests that any of the matches describes, and what is done with them."""

    name: str = ""
    matches: tuple[HTTPRouteMatch, ...] = ()
    filters: tuple[Filter, ...] = ()
    backend_refs: tuple[RouteBackend, ...] = ()
    timeouts: Timeouts = Timeouts()
    retry: RouteRetry | None = None
    session_persistence: SessionPersistence | None = None


class HTTPRouteSpec(Model):
    """How HTTP requests are routed."""

    parent_refs: tuple[ParentReference, ...] = ()
    hostnames: tuple[str, ...] = ()
    rules: tuple[HTTPRouteRule, ...] = (HTTPRouteRule(),)


class HTTPRoute(ModelObject):
    """Routing of HTTP requests."""

    spec: HTTPRouteSpec
    status: dict[str, Any] = Field(default_factory=dict)


class MethodMatch(Model):
    """What a call must be like; an empty field matches any."""

    type: MatchType = MatchType.EXACT
    service: str = ""
    method: str = ""


class GRPCRouteMatch(Model):
    """What a call must be like: all given fields must match."""

    method: MethodMatch | None = None
    headers: tuple[NameMatch, ...] = ()


class GRPCRouteRule(Model):
    """Calls that any of the matches describes, and what is done with them."""

    name: str = ""
    matches: tuple[GRPCRouteMatch, ...] = ()
    filters: tuple[Filter, ...] = ()
    backend_refs: tuple[RouteBackend, ...] = ()
    session_persistence: SessionPersistence | None = None


class GRPCRouteSpec(Model):
    """How gRPC calls are routed."""

    parent_refs: tuple[ParentReference, ...] = ()
    hostnames: tuple[str, ...] = ()
    rules: tuple[GRPCRouteRule, ...] = (GRPCRouteRule(),)


class GRPCRoute(ModelObject):
    """Routing of gRPC calls."""

    spec: GRPCRouteSpec
    status: dict[str, Any] = Field(default_factory=dict)


class ConnectionRouteRule(Model):
    """Where connections go."""

    name: str = ""
    backend_refs: tuple[BackendReference, ...] = ()


class TCPRouteSpec(Model):
    """How TCP connections are routed: by the first rule."""

    parent_refs: tuple[ParentReference, ...] = ()
    rules: tuple[ConnectionRouteRule, ...]


class TCPRoute(ModelObject):
    """Routing of TCP connections."""

    spec: TCPRouteSpec
    status: dict[str, Any] = Field(default_factory=dict)


class TLSRouteSpec(Model):
    """How TLS connections are routed that are passed through, by the server name that their clients send."""

    parent_refs: tuple[ParentReference, ...] = ()
    hostnames: tuple[str, ...] = ()
    rules: tuple[ConnectionRouteRule, ...]


class TLSRoute(ModelObject):
    """Routing of TLS connections."""

    spec: TLSRouteSpec
    status: dict[str, Any] = Field(default_factory=dict)


class UDPRouteSpec(Model):
    """How UDP datagrams are routed: by the first rule."""

    parent_refs: tuple[ParentReference, ...] = ()
    rules: tuple[ConnectionRouteRule, ...]


class UDPRoute(ModelObject):
    """Routing of UDP datagrams, at gateways only."""

    spec: UDPRouteSpec
    status: dict[str, Any] = Field(default_factory=dict)


class GrantFrom(Model):
    """Who may refer."""

    group: str
    kind: str
    namespace: str


class GrantTo(Model):
    """What may be referred to; no name: all of the kind."""

    group: str
    kind: str
    name: str = ""


class ReferenceGrantSpec(Model):
    """Lets objects of other namespaces refer to objects of this one."""

    from_: tuple[GrantFrom, ...] = Field(default=(), alias="from")
    to: tuple[GrantTo, ...] = ()


class ReferenceGrant(ModelObject):
    """Lets objects of other namespaces refer to objects of this one."""

    spec: ReferenceGrantSpec
