"""From HTTPRoutes and GRPCRoutes to rules. Pure. Source: Gateway API v1, GEP-1324 (routes of a mesh).

What a route names is resolved here, so that the conditions of the route and its rules come from one computation. A
backend that cannot be resolved takes its share of the requests with status 500, as the API demands.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from controlplane.routing import route_filters
from controlplane.routing.ir import (
    Comparison,
    Forward,
    HttpRule,
    NamedMatch,
    Origin,
    RequestMatch,
    Respond,
    Retry,
    Share,
    Target,
    TextMatch,
)
from controlplane.routing.route_filters import Unsupported
from controlplane.routing.services import Service
from meshapi.resources.gateway_routes import (
    BackendReference,
    GRPCRoute,
    GRPCRouteMatch,
    GRPCRouteRule,
    HTTPRoute,
    HTTPRouteMatch,
    HTTPRouteRule,
    MatchType,
    NameMatch,
    ParentReference,
    RouteRetry,
)
from meshkit.kube import Key

Route = HTTPRoute | GRPCRoute
_UNKNOWN_BACKEND: Final = 500
_COMPARISONS: Final = {
    MatchType.EXACT: Comparison.EXACT,
    MatchType.PATH_PREFIX: Comparison.PATH_PREFIX,
    MatchType.REGEX: Comparison.REGEX,
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """A condition's outcome; the reason is one of the API's."""

    is_true: bool = True
    reason: str = ""
    message: str = ""


ACCEPTED: Final = Verdict(True, "Accepted", "the route is accepted")
RESOLVED: Final = Verdict(True, "ResolvedRefs", "all references are resolved")


@dataclass(frozen=True, slots=True)
class References:
    """How names in a route are resolved.

    Attributes:
        service: returns a Kubernetes service by its key; ``None``: there is none.
        is_granted: whether an object of the route's kind and namespace may refer to a service of another namespace.
    """

    service: Callable[[Key], Service | None]
    is_granted: Callable[[str, str, Key], bool]


@dataclass(frozen=True, slots=True)
class Attachment:
    """A route at one of its parents in the mesh.

    Attributes:
        parent: as the route names it.
        service: the parent's key.
        port: of the service; 0: all.
        client_namespace: whose clients it counts for; empty: all.
        accepted: condition ``Accepted``.
    """

    parent: ParentReference
    service: Key
    port: int
    client_namespace: str
    accepted: Verdict


@dataclass(frozen=True, slots=True)
class RouteRules:
    """What a route says.

    Attributes:
        kind: of the route.
        key: of the route.
        created: when; the older of two routes counts first.
        attachments: its parents in the mesh.
        rules: in the route's order.
        resolved: condition ``ResolvedRefs``.
    """

    kind: str
    key: Key
    created: str
    attachments: tuple[Attachment, ...] = ()
    rules: tuple[HttpRule, ...] = ()
    resolved: Verdict = RESOLVED


def translate(kind: str, route: Route, references: References) -> RouteRules:
    """Return the rules of a route and its conditions."""
    return _Translation(kind, route, references).result()


@dataclass(slots=True)
class _Translation:
    kind: str
    route: Route
    references: References
    accepted: Verdict = ACCEPTED
    resolved: Verdict = RESOLVED
    faults: list[str] = field(default_factory=list)

    def result(self) -> RouteRules:
        rules = tuple(self._rules())
        attachments = tuple(filter(None, (self._attachment(one) for one in self.route.spec.parent_refs)))
        created = self.route.metadata.creation_timestamp
        return RouteRules(self.kind, self.route.key, created, attachments, rules, self.resolved)

    def _attachment(self, parent: ParentReference) -> Attachment | None:
        """Return the attachment to a service; ``None`` for a parent of another kind."""
        if not _is_service(parent):
            return None
        own = self.route.metadata.namespace
        key = (parent.namespace or own, parent.name)
        service, accepted = self.references.service(key), self.accepted
        if service is None or not service.serves(parent.port):
            missing = "service" if service is None else f"port {parent.port} of service"
            accepted = Verdict(False, "NoMatchingParent", f"{missing} {'/'.join(key)} does not exist")
        client = "" if key[0] == own else own
        return Attachment(parent, key, parent.port, client, accepted)

    def _rules(self) -> Iterator[HttpRule]:
        rules: Sequence[HTTPRouteRule | GRPCRouteRule] = self.route.spec.rules
        for index, rule in enumerate(rules):
            origin = Origin(self.kind, self.route.key, f"spec.rules[{index}]")
            try:
                yield from self._of_rule(origin, rule)
            except Unsupported as error:
                self.accepted = Verdict(False, error.reason, f"{origin.rule}.{error}")

    def _of_rule(self, origin: Origin, rule: HTTPRouteRule | GRPCRouteRule) -> Iterator[HttpRule]:
        if rule.session_persistence is not None:
            raise Unsupported("sessionPersistence", "is not supported yet")
        filters = route_filters.of_filters(rule.filters, self._target)
        shares = tuple(self._share(f"backendRefs[{index}]", one) for index, one in enumerate(rule.backend_refs))
        action = filters.redirect or _action(shares)
        common = HttpRule(
            origin=origin,
            match=RequestMatch(),
            action=action,
            name=rule.name or _name(origin),
            rewrite=filters.rewrite,
            host=filters.host,
            request=filters.request,
            response=filters.response,
            mirrors=filters.mirrors,
            cors=filters.cors,
            missing_status=_UNKNOWN_BACKEND,
        )
        if isinstance(rule, HTTPRouteRule):
            common = _with_timeouts(common, rule)
            yield from (replace(common, match=_http_match(one)) for one in rule.matches or (HTTPRouteMatch(),))
        else:
            yield from (replace(common, match=_grpc_match(one)) for one in rule.matches or (GRPCRouteMatch(),))

    def _share(self, path: str, backend: BackendReference) -> Share:
        target = self._target(backend)
        filters = route_filters.of_filters(getattr(backend, "filters", ()), self._target)
        if filters.redirect or filters.rewrite or filters.mirrors or filters.cors:
            raise Unsupported(f"{path}.filters", "only header modifiers are supported for a single backend")
        return Share(target, backend.weight, filters.request, filters.response)

    def _target(self, backend: BackendReference) -> Target | None:
        """Return where a reference leads; ``None`` if nowhere, which the route's condition then says."""
        own = self.route.metadata.namespace
        key = (backend.namespace or own, backend.name)
        if backend.group or backend.kind != "Service":
            return self._unresolved("InvalidKind", f"{backend.group}/{backend.kind} is no kind of backends here")
        if key[0] != own and not self._is_only_parent(key) and not self.references.is_granted(self.kind, own, key):
            return self._unresolved("RefNotPermitted", f"no ReferenceGrant lets it refer to service {'/'.join(key)}")
        service = self.references.service(key)
        if service is None or not service.serves(backend.port):
            return self._unresolved(
                "BackendNotFound", f"service {'/'.join(key)} with port {backend.port} does not exist"
            )
        return Target(service.host, backend.port)

    def _is_only_parent(self, service: Key) -> bool:
        """Return whether clients have called the service themselves: to send them there grants them nothing new."""
        own, parents = self.route.metadata.namespace, self.route.spec.parent_refs
        return bool(parents) and all(
            _is_service(one) and (one.namespace or own, one.name) == service for one in parents
        )

    def _unresolved(self, reason: str, message: str) -> Target | None:
        if self.resolved.is_true:
            self.resolved = Verdict(False, reason, message)
        return None


def _is_service(parent: ParentReference) -> bool:
    return not parent.group and parent.kind == "Service"


def _action(shares: Sequence[Share]) -> Forward | Respond:
    weighted = tuple(share for share in shares if share.weight)
    return Forward(weighted) if weighted else Respond(_UNKNOWN_BACKEND)


def _name(origin: Origin) -> str:
    """Return a rule's name, as Istio forms it: namespace, name, position."""
    namespace, name = origin.key
    return f"{namespace}.{name}.{origin.rule.rpartition('[')[2].removesuffix(']')}"


def _with_timeouts(rule: HttpRule, given: HTTPRouteRule) -> HttpRule:
    """Without retries, the timeout of an attempt is the request's."""
    request, backend = given.timeouts.request or None, given.timeouts.backend_request or None
    retry = None if given.retry is None else _retry(given.retry)
    if backend is not None and retry is None:
        return replace(rule, timeout=min(backend, request) if request else backend)
    if retry is not None:
        retry = replace(retry, per_try_timeout=backend)
    return replace(rule, timeout=request, retry=retry)


def _retry(retry: RouteRetry) -> Retry:
    default = Retry()
    attempts = default.attempts if retry.attempts is None else retry.attempts
    return Retry(attempts=attempts, statuses=retry.codes, backoff=retry.backoff or None)


def _http_match(match: HTTPRouteMatch) -> RequestMatch:
    path = match.path
    return RequestMatch(
        path=None if path is None else TextMatch(_COMPARISONS[path.type], path.value),
        method=TextMatch(Comparison.EXACT, match.method) if match.method else None,
        headers=_named((name.lower(), one) for name, one in _first(match.headers)),
        query=_named(_first(match.query_params)),
    )


def _grpc_match(match: GRPCRouteMatch) -> RequestMatch:
    return RequestMatch(
        path=_grpc_path(match), headers=_named((name.lower(), one) for name, one in _first(match.headers))
    )


def _grpc_path(match: GRPCRouteMatch) -> TextMatch | None:
    method = match.method
    if method is None or not (method.service or method.method):
        return None
    if method.type is MatchType.REGEX:
        return TextMatch(Comparison.REGEX, f"/{method.service or '[^/]+'}/{method.method or '[^/]+'}")
    if method.service and method.method:
        return TextMatch(Comparison.EXACT, f"/{method.service}/{method.method}")
    if method.service:
        return TextMatch(Comparison.PREFIX, f"/{method.service}/")
    return TextMatch(Comparison.REGEX, f"/[^/]+/{method.method}")


def _first(given: Iterable[NameMatch]) -> Iterator[tuple[str, NameMatch]]:
    """Yield matches by name: of several for one name, the first one counts (Gateway API, ``HTTPHeaderMatch.name``)."""
    seen = set()
    for one in given:
        if one.name.lower() not in seen:
            seen.add(one.name.lower())
            yield one.name, one


def _named(given: Iterable[tuple[str, NameMatch]]) -> tuple[NamedMatch, ...]:
    return tuple(NamedMatch(name, TextMatch(_COMPARISONS[one.type], one.value)) for name, one in given)
