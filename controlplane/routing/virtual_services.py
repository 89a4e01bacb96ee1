"""From a VirtualService to rules. Pure. Facts: Istio's ``pilot/pkg/networking/core/route/route.go``."""

import base64
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from controlplane.routing import delegation
from controlplane.routing.exports import is_exported
from controlplane.routing.header_changes import of_headers
from controlplane.routing.ir import (
    Abort,
    Action,
    ClaimMatch,
    Comparison,
    ConnectionRule,
    Cors,
    Delay,
    Forward,
    HttpRule,
    Mirror,
    NamedMatch,
    Origin,
    PathChange,
    PathRewrite,
    PortSource,
    Redirect,
    RequestMatch,
    Respond,
    Retry,
    Routing,
    Share,
    Target,
    TextMatch,
)
from meshapi import hosts
from meshapi.resources import virtual_service as api
from meshapi.resources.values import StringMatch
from meshkit.kube import Key

MESH: Final = "mesh"
"""Reserved name in ``gateways``: the rules apply to sidecars and waypoints, not to a Gateway."""
Find = Callable[[Key], api.VirtualService | None]


@dataclass(frozen=True, slots=True)
class Here:
    """A gateway, as matches ask for it.

    Attributes:
        gateway: key of the Gateway of Istio's API.
        namespace: of its pods.
        labels: of its pods.
    """

    gateway: Key
    namespace: str
    labels: frozenset[tuple[str, str]] = frozenset()


_CLAIMS: Final = "@request.auth.claims"
_ALL: Final = 1_000_000
_ANY_TEXT: Final = frozenset({"*", ".*"})
_PREFIX_VARIABLE: Final = "%PREFIX()%"


def translate(item: api.VirtualService, domain: str, find: Find = lambda _: None) -> Routing:
    """Return the rules of a VirtualService for the mesh; none if it counts for gateways only.

    Args:
        item: the object.
        domain: the cluster's domain, which completes short host names.
        find: returns another VirtualService, which has the rules of this one.
    """
    if item.spec.gateways and MESH not in item.spec.gateways:
        return Routing()
    return _Translation(item, domain, find).routing()


def translate_at(item: api.VirtualService, domain: str, here: Here, find: Find = lambda _: None) -> Routing:
    """Return the rules of a VirtualService at a gateway that it names; see ``translate``."""
    return _Translation(item, domain, find, here).routing()


@dataclass(slots=True)
class _Translation:
    item: api.VirtualService
    domain: str
    find: Find
    here: Here | None = None
    problems: list[str] = field(default_factory=list)

    def routing(self) -> Routing:
        spec = self.item.spec
        http = tuple(rule for index, one in enumerate(spec.http) for rule in self._http(f"spec.http[{index}]", one))
        tls = tuple(rule for index, one in enumerate(spec.tls) for rule in self._tls(f"spec.tls[{index}]", one))
        tcp = tuple(rule for index, one in enumerate(spec.tcp) for rule in self._tcp(f"spec.tcp[{index}]", one))
        named = tuple(self._complete(host) for host in spec.hosts)
        return Routing(named, http, tls, tcp, tuple(self.problems))

    def _complete(self, host: str) -> str:
        return hosts.complete(host, self.item.metadata.namespace, self.domain)

    def _http(self, path: str, rule: api.HTTPRoute) -> Iterator[HttpRule]:
        if rule.delegate is not None:
            yield from self._delegated(path, rule, rule.delegate)
            return
        changes = of_headers(rule.headers)
        rewrite = rule.rewrite or api.HTTPRewrite()
        common = HttpRule(
            origin=Origin("VirtualService", self.item.key, path),
            match=RequestMatch(),
            action=self._action(rule),
            name=rule.name,
            timeout=rule.timeout or None,
            retry=None if rule.retries is None else _retry(rule.retries),
            rewrite=_rewrite(rewrite),
            host=rewrite.authority or changes.host,
            request=changes.request,
            response=changes.response,
            delay=_delay(rule.fault),
            abort=_abort(rule.fault),
            mirrors=tuple(self._mirrors(rule)),
            cors=None if rule.cors_policy is None else _cors(rule.cors_policy),
        )
        for index, match in enumerate(rule.match or (api.HTTPMatchRequest(),)):
            if self._counts(f"{path}.match[{index}]", match):
                made = _with_match(common, match)
                # At a gateway the namespace has been compared already.
                yield made if self.here is None else replace(made, match=replace(made.match, source_namespace=""))

    def _delegated(self, path: str, rule: api.HTTPRoute, delegate: api.Delegate) -> Iterator[HttpRule]:
        """Yield the rules of another object, with a pointer to both."""
        own = self.item.metadata.namespace
        key = (delegate.namespace or own, delegate.name)
        found = self.find(key)
        if found is None or not is_exported(found, own):
            self.problems.append(f"{path}.delegate: VirtualService {'/'.join(key)} does not exist, or is not exported")
            return
        if found.spec.hosts:
            self.problems.append(f"{path}.delegate: VirtualService {'/'.join(key)} has hosts, so it is no delegate")
            return
        # Short host names are of the namespace of the object that has them.
        inner = _Translation(found, self.domain, lambda _: None, self.here)
        for index, merged in delegation.merged(self._with_gateways(rule), found):
            for one in inner._http(f"spec.http[{index}]", merged):
                yield replace(one, via=Origin("VirtualService", self.item.key, path))
        self.problems += inner.problems

    def _with_gateways(self, rule: api.HTTPRoute) -> api.HTTPRoute:
        """Return a rule that names gateways completely: a delegate may be in another namespace."""
        own = self.item.metadata.namespace

        def complete(name: str) -> str:
            return MESH if name == MESH else "/".join(api.gateway_key(name, own))

        matches = (
            one.model_copy(update={"gateways": tuple(complete(name) for name in one.gateways)}) for one in rule.match
        )
        return rule.model_copy(update={"match": tuple(matches)})

    def _counts_at(self, here: Here, match: api.HTTPMatchRequest | api.L4Match) -> bool:
        """Return whether a match is for a gateway. The source of what it says is the gateway itself, as in Istio."""
        if match.gateways:
            own = self.item.metadata.namespace
            return any(api.gateway_key(name, own) == here.gateway for name in match.gateways if name != MESH)
        if not set(match.source_labels.items()) <= here.labels:
            return False
        return match.source_namespace in {"", here.namespace}

    def _counts(self, path: str, match: api.HTTPMatchRequest | api.L4Match) -> bool:
        """Return whether a match can be decided here."""
        if self.here is not None:
            return self._counts_at(self.here, match)
        if match.gateways and MESH not in match.gateways:
            return False
        if match.source_labels:
            self.problems.append(
                f"{path}.sourceLabels: a waypoint does not know its clients' labels; the match is left out"
            )
            return False
        return True

    def _connection_counts(self, path: str, match: api.L4Match) -> bool:
        if self.here is not None:
            if match.destination_subnets:
                self.problems.append(f"{path}.destinationSubnets: does not count at gateways; it is ignored")
            return self._counts_at(self.here, match)
        if match.source_namespace:
            self.problems.append(f"{path}.sourceNamespace: is for HTTP only; the match is left out")
            return False
        return self._counts(path, match)

    def _action(self, rule: api.HTTPRoute) -> Action:
        if rule.redirect is not None:
            return _redirect(rule.redirect)
        if rule.direct_response is not None:
            return _respond(rule.direct_response)
        single = len(rule.route) == 1
        return Forward(
            tuple(self._share(one, 1 if single else one.weight) for one in rule.route if single or one.weight)
        )

    def _share(self, one: api.HTTPRouteDestination, weight: int) -> Share:
        changes = of_headers(one.headers)
        return Share(self._target(one.destination), weight, changes.request, changes.response, changes.host)

    def _target(self, destination: api.Destination) -> Target:
        port = 0 if destination.port is None else destination.port.number
        viewer = self.item.metadata.namespace
        return Target(self._complete(destination.host), port, destination.subset, viewer)

    def _mirrors(self, rule: api.HTTPRoute) -> Iterator[Mirror]:
        if rule.mirror is not None:
            share = rule.mirror_percentage
            millionths = share.millionths if share is not None else _ALL
            if share is None and rule.mirror_percent is not None:
                millionths = rule.mirror_percent * 10_000
            if millionths:
                yield Mirror(self._target(rule.mirror), millionths)
        for one in rule.mirrors:
            millionths = _ALL if one.percentage is None else one.percentage.millionths
            if millionths:
                yield Mirror(self._target(one.destination), millionths)

    def _tls(self, path: str, rule: api.TLSRoute) -> Iterator[ConnectionRule]:
        for index, match in enumerate(rule.match):
            if self._connection_counts(f"{path}.match[{index}]", match):
                names = tuple(name.lower() for name in match.sni_hosts)
                yield self._connection(path, rule.route, match, names)

    def _tcp(self, path: str, rule: api.TCPRoute) -> Iterator[ConnectionRule]:
        for index, match in enumerate(rule.match or (api.TCPMatch(),)):
            if self._connection_counts(f"{path}.match[{index}]", match):
                yield self._connection(path, rule.route, match, ())

    def _connection(
        self, path: str, route: tuple[api.RouteDestination, ...], match: api.L4Match, server_names: tuple[str, ...]
    ) -> ConnectionRule:
        single = len(route) == 1
        shares = (
            Share(self._target(one.destination), 1 if single else one.weight) for one in route if single or one.weight
        )
        origin = Origin("VirtualService", self.item.key, path)
        return ConnectionRule(origin, tuple(shares), match.port, match.destination_subnets, server_names)


def _with_match(common: HttpRule, match: api.HTTPMatchRequest) -> HttpRule:
    names = [name for name in (common.name, match.name) if name]
    return replace(
        common,
        match=_match(match),
        port=match.port,
        name=".".join(names),
        stat_prefix=match.stat_prefix,
    )


def _match(match: api.HTTPMatchRequest) -> RequestMatch:
    headers, claims = [], []
    for given, inverted in ((match.headers, False), (match.without_headers, True)):
        for name, text in sorted(given.items()):
            if path := claim_path(name):
                claims.append(ClaimMatch(path, _text(text), inverted))
            else:
                headers.append(NamedMatch(name.lower(), _text(text), inverted))
    return RequestMatch(
        path=None if match.uri is None else _text(match.uri, ignores_case=match.ignore_uri_case),
        method=_optional(match.method),
        scheme=_optional(match.scheme),
        authority=_optional(match.authority),
        headers=tuple(headers),
        query=tuple(NamedMatch(name, _text(text)) for name, text in sorted(match.query_params.items())),
        claims=tuple(claims),
        source_namespace=match.source_namespace,
    )


def claim_path(name: str) -> tuple[str, ...]:
    """Return the claims that a header's name stands for, as ``@request.auth.claims[group][id]``; none for a header."""
    if not name.startswith(_CLAIMS):
        return ()
    rest = name.removeprefix(_CLAIMS)
    if rest.startswith("["):
        return tuple(part.removesuffix("]") for part in rest[1:].split("["))
    return tuple(part for part in rest.split(".") if part)


def _optional(text: StringMatch | None) -> TextMatch | None:
    return None if text is None else _text(text)


def _text(text: StringMatch, *, ignores_case: bool = False) -> TextMatch:
    if text.exact is not None:
        return TextMatch(Comparison.EXACT, text.exact, ignores_case)
    if text.prefix:
        return TextMatch(Comparison.PREFIX, text.prefix, ignores_case)
    if text.regex and text.regex not in _ANY_TEXT:
        return TextMatch(Comparison.REGEX, text.regex)
    return TextMatch(Comparison.PRESENT)


def _rewrite(rewrite: api.HTTPRewrite) -> PathRewrite | None:
    by_regex = rewrite.uri_regex_rewrite
    if by_regex is not None:
        return PathRewrite(PathChange.REGEX, by_regex.rewrite, by_regex.match)
    return PathRewrite(PathChange.PREFIX, rewrite.uri) if rewrite.uri else None


def _redirect(redirect: api.HTTPRedirect) -> Redirect:
    path = None
    if redirect.uri.startswith(_PREFIX_VARIABLE):
        path = PathRewrite(PathChange.PREFIX, redirect.uri.removeprefix(_PREFIX_VARIABLE) or "/")
    elif redirect.uri:
        path = PathRewrite(PathChange.FULL, redirect.uri)
    sources = {"FROM_PROTOCOL_DEFAULT": PortSource.SCHEME, "FROM_REQUEST_PORT": PortSource.CALLED}
    return Redirect(
        status=redirect.redirect_code or 301,
        scheme=redirect.scheme,
        host=redirect.authority,
        port=redirect.port or 0,
        port_source=sources.get(redirect.derive_port or "", PortSource.HOST),
        path=path,
    )


def _respond(response: api.HTTPDirectResponse) -> Respond:
    body = response.body or api.HTTPBody()
    if body.bytes is not None:
        return Respond(response.status, base64.b64decode(body.bytes))
    return Respond(response.status, (body.string or "").encode())


def _retry(retries: api.HTTPRetry) -> Retry:
    default = Retry()
    words = [word.strip() for word in retries.retry_on.split(",") if word.strip()]
    return Retry(
        attempts=retries.attempts,
        on=tuple(word for word in words if not word.isdecimal()) if words else default.on,
        statuses=tuple(int(word) for word in words if word.isdecimal()),
        per_try_timeout=retries.per_try_timeout,
        backoff=retries.backoff,
        may_repeat_endpoint=retries.retry_ignore_previous_hosts is False,
    )


def _delay(fault: api.HTTPFaultInjection | None) -> Delay | None:
    delay = None if fault is None else fault.delay
    if delay is None or delay.fixed_delay is None:
        return None
    millionths = delay.percentage.millionths if delay.percentage is not None else delay.percent * 10_000
    return Delay(delay.fixed_delay, millionths)


def _abort(fault: api.HTTPFaultInjection | None) -> Abort | None:
    abort = None if fault is None else fault.abort
    if abort is None:
        return None
    millionths = 0 if abort.percentage is None else abort.percentage.millionths
    if abort.http_status is not None:
        return Abort(millionths, http_status=abort.http_status)
    return Abort(millionths, grpc_status=api.GRPC_CODES[abort.grpc_status])


def _cors(policy: api.CorsPolicy) -> Cors:
    origins = tuple(_text(one) for one in policy.allow_origins)
    if not origins:
        origins = tuple(
            TextMatch(Comparison.PRESENT) if one == "*" else TextMatch(Comparison.EXACT, one)
            for one in policy.allow_origin
        )
    return Cors(
        origins=origins,
        methods=policy.allow_methods,
        headers=policy.allow_headers,
        exposed=policy.expose_headers,
        max_age=policy.max_age,
        allows_credentials=policy.allow_credentials,
        forwards_unmatched_preflights=policy.unmatched_preflights != "IGNORE",
    )
