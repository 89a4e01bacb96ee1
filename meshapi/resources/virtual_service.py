"""``networking.istio.io``: VirtualService, in full, with Istio's field names.

Source: istio/api, networking/v1/virtual_service.proto (v1, v1beta1 and v1alpha3 are the same). What Istio's validation
refuses and one object alone can show is refused here, so that translation need not check again.
"""

import base64
from collections.abc import Mapping
from typing import Annotated, Final

from google.rpc import code_pb2
from pydantic import AfterValidator, Field, model_validator

from meshapi.resources.base import IpBlock, LenientModel, ModelObject
from meshapi.resources.values import (
    Duration,
    Percent,
    PortNumber,
    PortSelector,
    PositiveDuration,
    Regex,
    StringMatch,
    exactly_one,
)

_REDIRECT_CODES = frozenset({301, 302, 303, 307, 308})
GRPC_CODES: Final[Mapping[str, int]] = dict(code_pb2.Code.items())
"""Number of a gRPC status by its name (``google/rpc/code.proto``)."""


def _status(value: int) -> int:
    if not 200 <= value < 600:
        raise ValueError("is not an HTTP status; write a number from 200 to 599")
    return value


def _redirect_code(value: int) -> int:
    if value and value not in _REDIRECT_CODES:
        raise ValueError("is not a redirect status; write 301, 302, 303, 307 or 308")
    return value


def _base64(value: str) -> str:
    try:
        base64.b64decode(value)
    except ValueError:
        raise ValueError("is not base64; encode the bytes, or use string") from None
    return value


def _grpc_status(value: str) -> str:
    if value and value not in GRPC_CODES:
        raise ValueError(f"is not a gRPC status; write one of {', '.join(GRPC_CODES)}")
    return value


Status = Annotated[int, AfterValidator(_status)]


class Destination(LenientModel):
    """A service, or a subset of it."""

    host: str = Field(min_length=1, description="Host name of a service; a short one is of the rule's namespace.")
    subset: str = Field(default="", description="Subset that the DestinationRule of the host defines.")
    port: PortSelector | None = Field(default=None, description="Port of the service, where it has several.")


class HeaderOperations(LenientModel):
    """Changes of headers."""

    set: dict[str, str] = Field(default_factory=dict, description="Headers to replace.")
    add: dict[str, str] = Field(default_factory=dict, description="Headers to append.")
    remove: tuple[str, ...] = Field(default=(), description="Headers to remove.")


class Headers(LenientModel):
    """Changes of the headers of requests and responses."""

    request: HeaderOperations = HeaderOperations()
    response: HeaderOperations = HeaderOperations()


_NO_HEADERS: Final = Headers()
"""A default that is given as an object is copied for every route, which takes longer than all else of reading it."""


class HTTPRouteDestination(LenientModel):
    """One of the destinations among which requests are divided."""

    destination: Destination = Field(description="Where requests go.")
    weight: int = Field(default=0, ge=0, description="Share of the requests, relative to the others'.")
    headers: Headers = Field(
        default_factory=lambda: _NO_HEADERS, description="Changes of headers for this destination."
    )


class HTTPMatchRequest(LenientModel):
    """What a request must be like: all given fields must match."""

    name: str = Field(default="", description="Name of the match.")
    uri: StringMatch | None = Field(default=None, description="The path.")
    scheme: StringMatch | None = Field(default=None, description="The scheme.")
    method: StringMatch | None = Field(default=None, description="The method.")
    authority: StringMatch | None = Field(default=None, description="The host, with its port as sent.")
    headers: dict[str, StringMatch] = Field(default_factory=dict, description="Headers, or claims of a token.")
    without_headers: dict[str, StringMatch] = Field(default_factory=dict, description="Headers that must not match.")
    query_params: dict[str, StringMatch] = Field(default_factory=dict, description="Parameters of the query.")
    ignore_uri_case: bool = Field(default=False, description="Whether case counts in an exact or prefix uri.")
    port: int = Field(default=0, ge=0, le=65535, description="Port that the client called.")
    source_labels: dict[str, str] = Field(default_factory=dict, description="Labels of the client.")
    source_namespace: str = Field(default="", description="Namespace of the client.")
    gateways: tuple[str, ...] = Field(default=(), description="Gateways where the match counts.")
    stat_prefix: str = Field(default="", description="Prefix of the route's statistics.")

    @model_validator(mode="after")
    def _has_names(self) -> "HTTPMatchRequest":
        for field, given in (("headers", self.headers), ("withoutHeaders", self.without_headers)):
            for name in given:
                if not name:
                    raise ValueError(f"{field} has an empty name; write the header's name")
                if name.startswith(":"):
                    raise ValueError(f"{field}[{name}] is a pseudo-header; use uri, method, scheme or authority")
        return self


class HTTPRedirect(LenientModel):
    """Answers with a redirect."""

    uri: str = Field(default="", description="New path; the whole of it.")
    authority: str = Field(default="", description="New host.")
    port: PortNumber | None = Field(default=None, description="New port.")
    derive_port: str | None = Field(default=None, description="FROM_PROTOCOL_DEFAULT or FROM_REQUEST_PORT.")
    scheme: str = Field(default="", description="New scheme.")
    redirect_code: Annotated[int, AfterValidator(_redirect_code)] = Field(default=0, description="Status; 301 if 0.")


class HTTPBody(LenientModel):
    """Content of an answer; one of the fields."""

    string: str | None = Field(default=None, description="Text.")
    bytes: Annotated[str, AfterValidator(_base64)] | None = Field(default=None, description="Bytes, in base64.")


class HTTPDirectResponse(LenientModel):
    """Answers at once."""

    status: Status = Field(description="HTTP status.")
    body: HTTPBody | None = Field(default=None, description="Content.")


class Delegate(LenientModel):
    """Names a VirtualService that has the routes."""

    name: str = Field(default="", description="Its name.")
    namespace: str = Field(default="", description="Its namespace; the own one where it is not given.")


class RegexRewrite(LenientModel):
    """Replaces what matches in the path."""

    match: Regex = Field(default="", description="RE2 expression.")
    rewrite: str = Field(default="", description=r"Replacement; \1 is the first group.")


class HTTPRewrite(LenientModel):
    """Changes what is called before the request is sent on."""

    uri: str = Field(default="", description="Replaces the matched prefix, or the whole of an exact path.")
    authority: str = Field(default="", description="New host.")
    uri_regex_rewrite: RegexRewrite | None = Field(default=None, description="Replaces what matches in the path.")


class HTTPRetry(LenientModel):
    """Sends failed requests again."""

    attempts: int = Field(default=0, ge=0, description="How often at most; 0 disables retries.")
    per_try_timeout: PositiveDuration | None = Field(default=None, description="Timeout of each attempt.")
    retry_on: str = Field(default="", description="Conditions and statuses, separated by commas.")
    retry_remote_localities: bool | None = Field(default=None, description="Whether to retry in other localities.")
    retry_ignore_previous_hosts: bool | None = Field(
        default=None, description="Whether the same endpoint may be chosen."
    )
    backoff: PositiveDuration | None = Field(default=None, description="Base of the exponential backoff.")


class FaultDelay(LenientModel):
    """Delays requests."""

    fixed_delay: PositiveDuration | None = Field(default=None, description="How long.")
    percentage: Percent | None = Field(default=None, description="Share of the requests.")
    percent: int = Field(default=0, ge=0, le=100, description="Share of the requests (deprecated).")


class FaultAbort(LenientModel):
    """Answers requests with an error."""

    http_status: int | None = Field(default=None, description="HTTP status.")
    grpc_status: Annotated[str, AfterValidator(_grpc_status)] = Field(
        default="", description="gRPC status by name, as UNAVAILABLE."
    )
    http2_error: str = Field(default="", description="Not supported, by Istio neither.")
    percentage: Percent | None = Field(default=None, description="Share of the requests.")

    @model_validator(mode="after")
    def _has_error(self) -> "FaultAbort":
        if self.http2_error:
            raise ValueError("http2Error is not supported; use httpStatus or grpcStatus")
        exactly_one({"httpStatus": self.http_status is not None, "grpcStatus": self.grpc_status})
        if self.http_status is not None:
            _status(self.http_status)
        return self


class HTTPFaultInjection(LenientModel):
    """Faults that are made on purpose."""

    delay: FaultDelay | None = Field(default=None, description="Delays.")
    abort: FaultAbort | None = Field(default=None, description="Errors.")


class HTTPMirrorPolicy(LenientModel):
    """Sends copies of requests elsewhere; their responses are dropped."""

    destination: Destination = Field(description="Where the copies go.")
    percentage: Percent | None = Field(default=None, description="Share of the requests; all where it is not given.")


class CorsPolicy(LenientModel):
    """Cross-origin resource sharing."""

    allow_origin: tuple[str, ...] = Field(default=(), description="Origins (deprecated; use allowOrigins).")
    allow_origins: tuple[StringMatch, ...] = Field(default=(), description="Origins that may call.")
    allow_methods: tuple[str, ...] = Field(default=(), description="Methods.")
    allow_headers: tuple[str, ...] = Field(default=(), description="Request headers.")
    expose_headers: tuple[str, ...] = Field(default=(), description="Response headers that pages may read.")
    max_age: Duration | None = Field(default=None, description="How long a preflight's answer may be kept.")
    allow_credentials: bool | None = Field(default=None, description="Whether credentials may be sent.")
    unmatched_preflights: str = Field(default="UNSPECIFIED", description="FORWARD or IGNORE.")


class HTTPRoute(LenientModel):
    """One rule: requests that any of the matches describes, and what is done with them."""

    name: str = Field(default="", description="Name of the rule, for logs.")
    match: tuple[HTTPMatchRequest, ...] = Field(default=(), description="Alternatives; none match everything.")
    route: tuple[HTTPRouteDestination, ...] = Field(default=(), description="Where requests go.")
    redirect: HTTPRedirect | None = Field(default=None, description="Answers with a redirect.")
    direct_response: HTTPDirectResponse | None = Field(default=None, description="Answers at once.")
    delegate: Delegate | None = Field(default=None, description="VirtualService that has the routes.")
    rewrite: HTTPRewrite | None = Field(default=None, description="Changes what is called.")
    timeout: Duration | None = Field(default=None, description="Of the whole request; 0s and none: no timeout.")
    retries: HTTPRetry | None = Field(default=None, description="Retries of failed requests.")
    fault: HTTPFaultInjection | None = Field(default=None, description="Faults made on purpose.")
    mirror: Destination | None = Field(default=None, description="Where copies of requests go.")
    mirrors: tuple[HTTPMirrorPolicy, ...] = Field(default=(), description="Where copies of requests go.")
    mirror_percent: int | None = Field(default=None, ge=0, le=100, description="Share of copies (deprecated).")
    mirror_percentage: Percent | None = Field(default=None, description="Share of copies.")
    cors_policy: CorsPolicy | None = Field(default=None, description="Cross-origin resource sharing.")
    headers: Headers = Field(default_factory=lambda: _NO_HEADERS, description="Changes of headers.")

    @model_validator(mode="after")
    def _is_consistent(self) -> "HTTPRoute":
        actions = {"route": self.route, "redirect": self.redirect, "directResponse": self.direct_response}
        exactly_one({**actions, "delegate": self.delegate})
        if self.mirror is not None and self.mirrors:
            raise ValueError("mirror and mirrors exclude each other; keep mirrors")
        if len(self.route) > 1 and not sum(item.weight for item in self.route):
            raise ValueError("route has several destinations without weights; give weight to one at least")
        if self.redirect is not None and self.rewrite is not None:
            raise ValueError("redirect and rewrite exclude each other; keep one of them")
        return self


class L4Match(LenientModel):
    """What a connection must be like: all given fields must match."""

    destination_subnets: tuple[IpBlock, ...] = Field(default=(), description="Addresses that were called.")
    port: int = Field(default=0, ge=0, le=65535, description="Port that the client called.")
    source_labels: dict[str, str] = Field(default_factory=dict, description="Labels of the client.")
    source_namespace: str = Field(default="", description="Namespace of the client.")
    gateways: tuple[str, ...] = Field(default=(), description="Gateways where the match counts.")


class TCPMatch(L4Match):
    """What a TCP connection must be like."""

    source_subnet: str = Field(default="", description="Not supported, by Istio neither.")


class TLSMatch(L4Match):
    """What a TLS connection must be like."""

    sni_hosts: tuple[str, ...] = Field(min_length=1, description="Server names; subsets of the object's hosts.")


class RouteDestination(LenientModel):
    """One of the destinations among which connections are divided."""

    destination: Destination = Field(description="Where connections go.")
    weight: int = Field(default=0, ge=0, description="Share of the connections, relative to the others'.")


class TCPRoute(LenientModel):
    """Connections that any of the matches describes, and where they go."""

    match: tuple[TCPMatch, ...] = Field(default=(), description="Alternatives; none match everything.")
    route: tuple[RouteDestination, ...] = Field(min_length=1, description="Where connections go.")


class TLSRoute(LenientModel):
    """TLS connections that any of the matches describes, and where they go."""

    match: tuple[TLSMatch, ...] = Field(min_length=1, description="Alternatives.")
    route: tuple[RouteDestination, ...] = Field(min_length=1, description="Where connections go.")


class VirtualServiceSpec(LenientModel):
    """How requests to some hosts are routed."""

    hosts: tuple[str, ...] = Field(default=(), description="Host names; none: routes for others to delegate to.")
    gateways: tuple[str, ...] = Field(default=(), description="Gateways, or mesh; mesh where it is not given.")
    http: tuple[HTTPRoute, ...] = Field(default=(), description="Rules for HTTP; the first that matches counts.")
    tls: tuple[TLSRoute, ...] = Field(default=(), description="Rules for TLS that is passed through.")
    tcp: tuple[TCPRoute, ...] = Field(default=(), description="Rules for other connections.")
    export_to: tuple[str, ...] = Field(default=(), description="Namespaces where it counts: * (all) or . (own).")

    @model_validator(mode="after")
    def _is_consistent(self) -> "VirtualServiceSpec":
        if not (self.http or self.tls or self.tcp):
            raise ValueError("has none of http, tls and tcp; write one rule at least")
        for index, rule in enumerate(self.http):
            if rule.delegate is not None and not self.hosts:
                raise ValueError(f"http[{index}].delegate is in an object without hosts, which is a delegate itself")
        return self


class VirtualService(ModelObject):
    """Routing of requests to some hosts."""

    spec: VirtualServiceSpec


def gateway_key(name: str, namespace: str) -> tuple[str, str]:
    """Return the key of a Gateway that a VirtualService of a namespace names.

    ``name``, ``namespace/name``, ``./name`` and the old ``name.namespace`` and ``name.namespace.svc.cluster.local``.
    """
    given, slash, short = name.rpartition("/")
    if slash:
        return (namespace if given == "." else given, short)
    short, dot, rest = name.partition(".")
    return (rest.partition(".")[0] if dot else namespace, short)
