"""From HTTPRoutes and GRPCRoutes to rules. Pure. Source: Gateway API v1, GEP-1324 (routes of a mesh).

What a route names is resolved here, so that the conditions of the route and its rules come from one computation. A
backend that cannot be resolved takes its share of the requests with status 500, as the API demands.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from controlplane.inputs.verdicts import Verdict
from controlplane.routing import route_filters, sessions
from controlplane.routing.ir import (
    Comparison,
    Forward,
    HttpRule,
    NamedMatch,
    Origin,
    RequestMatch,
    Respond,
    Retry,
    Session,
    Share,
    TextMatch,
)
from controlplane.routing.route_filters import Unsupported
from controlplane.routing.route_references import ACCEPTED, References, Resolution, RouteRules
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
    RouteRetry,
    SessionPersistence,
)

Route = HTTPRoute | GRPCRoute
_UNKNOWN_BACKEND: Final = 500
_COMPARISONS: Final = {
    MatchType.EXACT: Comparison.EXACT,
    MatchType.PATH_PREFIX: Comparison.PATH_PREFIX,
    MatchType.REGEX: Comparison.REGEX,
}


def translate(kind: str, route: Route, references: References) -> RouteRules:
    """Return the rules of a route and its conditions."""
    resolution = Resolution(kind, route.metadata.namespace, route.spec.parent_refs, references)
    return _Translation(kind, route, resolution).result()


@dataclass(slots=True)
class _Translation:
    kind: str
    route: Route
    resolution: Resolution
    accepted: Verdict = ACCEPTED

    def result(self) -> RouteRules:
        rules = tuple(self._rules())
        attachments = tuple(self.resolution.attachments(self.accepted, lambda port: port.protocol.is_http))
        created = self.route.metadata.creation_timestamp
        edges = self.resolution.edges(self.accepted, self.route.spec.hostnames)
        return RouteRules(self.kind, self.route.key, created, attachments, rules, self.resolution.resolved, edges=edges)

    def _rules(self) -> Iterator[HttpRule]:
        rules: Sequence[HTTPRouteRule | GRPCRouteRule] = self.route.spec.rules
        for index, rule in enumerate(rules):
            origin = Origin(self.kind, self.route.key, f"spec.rules[{index}]")
            try:
                yield from self._of_rule(origin, rule)
            except Unsupported as error:
                self.accepted = Verdict(False, error.reason, f"{origin.rule}.{error}")

    def _of_rule(self, origin: Origin, rule: HTTPRouteRule | GRPCRouteRule) -> Iterator[HttpRule]:
        filters = route_filters.of_filters(rule.filters, self.resolution.target)
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
            session=self._session(origin, rule.session_persistence, shares),
        )
        if isinstance(rule, HTTPRouteRule):
            common = _with_timeouts(common, rule)
            yield from (replace(common, match=_http_match(one)) for one in rule.matches or (HTTPRouteMatch(),))
        else:
            yield from (replace(common, match=_grpc_match(one)) for one in rule.matches or (GRPCRouteMatch(),))

    def _session(self, origin: Origin, given: SessionPersistence | None, shares: Iterable[Share]) -> Session | None:
        if given is None:
            return None
        if sum(bool(share.weight) for share in shares) > 1:
            why = "keeps clients at an endpoint of one backend only; write an XBackendTrafficPolicy for each backend"
            raise Unsupported("sessionPersistence", why)
        return sessions.of_persistence(given, str(origin))

    def _share(self, path: str, backend: BackendReference) -> Share:
        target = self.resolution.target(backend)
        filters = route_filters.of_filters(getattr(backend, "filters", ()), self.resolution.target)
        if filters.redirect or filters.rewrite or filters.mirrors or filters.cors:
            raise Unsupported(f"{path}.filters", "only header modifiers are supported for a single backend")
        return Share(target, backend.weight, filters.request, filters.response)


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
    """Return what is retried: what the route names, and connections that are reset or time out (``HTTPRouteRetry``)."""
    default = Retry()
    attempts = default.attempts if retry.attempts is None else retry.attempts
    on = (*default.on, "reset")
    return Retry(attempts=attempts, on=on, statuses=retry.codes, backoff=retry.backoff or None)


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
