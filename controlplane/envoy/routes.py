"""From a rule to a route of Envoy's. Facts: Istio's ``pilot/pkg/networking/core/route/route.go``."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, TypeAlias

from envoy.config.core.v3 import base_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.filters.common.fault.v3 import fault_pb2 as common_fault_pb2
from envoy.extensions.filters.http.cors.v3 import cors_pb2
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2
from envoy.type.matcher.v3 import regex_pb2
from google.protobuf import any_pb2, duration_pb2

from controlplane.envoy import matches, names, sessions
from controlplane.envoy.packing import duration, flag, millionths, number, packed, text
from controlplane.routing.ir import (
    Abort,
    Cors,
    Delay,
    Forward,
    HeaderChanges,
    HttpRule,
    PathChange,
    PathRewrite,
    PortSource,
    Redirect,
    Respond,
    Retry,
    Session,
    Share,
    Target,
)

Route: Final = route_components_pb2
HashPolicy: TypeAlias = route_components_pb2.RouteAction.HashPolicy
_HOSTS_TRIED: Final = 32
"""How often a retry looks for another endpoint, if the one that is chosen has been tried already.

Each pick is independent, and with two endpoints may favour the one that fails (its requests end sooner, so it is the
less loaded of the two) up to 3 to 1. After 5 picks, between 1 in 64 and 1 in 6 retries still go to the same
pod.
"""
_NO_TIMEOUT: Final = duration_pb2.Duration()
_UNKNOWN_BACKEND: Final = 500
_MISSING: Final = {
    500: Route.RouteAction.INTERNAL_SERVER_ERROR,
    503: Route.RouteAction.SERVICE_UNAVAILABLE,
}
_PATHS: Final = {
    "VirtualService": ("networking.istio.io/v1", "virtual-service"),
    "Ingress": ("networking.k8s.io/v1", "ingress"),
    "HTTPRoute": ("gateway.networking.k8s.io/v1", "http-route"),
    "GRPCRoute": ("gateway.networking.k8s.io/v1", "grpc-route"),
}
"""Kinds of routing objects: group and version, and the word for the kind in paths."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """The cluster of a target.

    Attributes:
        cluster: its name.
        hash_policies: what chooses the endpoint, where that is a key of the request.
        session: what keeps clients at one endpoint.
    """

    cluster: str
    hash_policies: tuple[HashPolicy, ...] = ()
    session: Session | None = None


Upstreams = Callable[[Target], Upstream]


def of_rule(rule: HttpRule, called_port: int, upstreams: Upstreams) -> route_components_pb2.Route:
    """Return the route of a rule.

    Args:
        rule: the rule.
        called_port: the port of the service that clients have called.
        upstreams: returns the cluster of a target.
    """
    result = Route.Route(match=matches.of_request(rule.match), name=rule.name, stat_prefix=rule.stat_prefix)
    if isinstance(rule.action, Redirect):
        result.redirect.CopyFrom(_redirect(rule.action, called_port, rule))
    elif isinstance(rule.action, Respond):
        result.direct_response.status = rule.action.status
        if rule.action.body:
            result.direct_response.body.inline_bytes = rule.action.body
    elif not any(share.target for share in rule.action.shares):
        result.direct_response.status = _UNKNOWN_BACKEND
    else:
        result.route.CopyFrom(_forward(rule, rule.action, upstreams))
        sessions.apply(result, rule.session or _only_session(rule.action, upstreams))
    _add_header_changes(result, rule.request, rule.response)
    for name, config in _filters(rule):
        result.typed_per_filter_config[name].CopyFrom(config)
    _set_origin(result, rule)
    return result


def default(upstream: Upstream) -> route_components_pb2.Route:
    """Return the route of a service without rules."""
    action = Route.RouteAction(
        cluster=upstream.cluster,
        timeout=_NO_TIMEOUT,
        retry_policy=_retry(Retry(), hashes=bool(upstream.hash_policies)),
        hash_policy=upstream.hash_policies,
    )
    action.max_grpc_timeout.CopyFrom(_NO_TIMEOUT)
    result = Route.Route(name="default", match=Route.RouteMatch(prefix="/"), route=action)
    sessions.apply(result, upstream.session)
    return result


def _only_session(action: Forward, upstreams: Upstreams) -> Session | None:
    """Return the session of the only target; with several, each has its own (``_set_clusters``)."""
    target = action.shares[0].target
    return upstreams(target).session if len(action.shares) == 1 and target is not None else None


def _forward(rule: HttpRule, action: Forward, upstreams: Upstreams) -> route_components_pb2.RouteAction:
    found = [(share, None if share.target is None else upstreams(share.target)) for share in action.shares]
    hashes = next((one.hash_policies for _, one in found if one is not None and one.hash_policies), ())
    timeout = duration(rule.timeout) if rule.timeout else _NO_TIMEOUT
    result = Route.RouteAction(
        timeout=timeout,
        retry_policy=_retry(rule.retry or Retry(), hashes=bool(hashes)),
        hash_policy=hashes,
        cluster_not_found_response_code=_MISSING[rule.missing_status],
    )
    result.max_grpc_timeout.CopyFrom(timeout)
    _set_clusters(result, found)
    if rule.host:
        result.host_rewrite_literal = rule.host
    if rule.rewrite is not None:
        _set_rewrite(result, rule.rewrite, rule)
    for mirror in rule.mirrors:
        policy = result.request_mirror_policies.add(cluster=upstreams(mirror.target).cluster)
        policy.runtime_fraction.default_value.CopyFrom(millionths(mirror.millionths))
    return result


def _set_clusters(result: route_components_pb2.RouteAction, found: Iterable[tuple[Share, Upstream | None]]) -> None:
    shares = list(found)
    if len(shares) == 1 and _is_plain(shares[0][0]) and shares[0][1] is not None:
        result.cluster = shares[0][1].cluster
        return
    for share, upstream in shares:
        weighted = result.weighted_clusters.clusters.add(weight=number(share.weight))
        weighted.name = names.BLACK_HOLE if upstream is None else upstream.cluster
        if upstream is not None and len(shares) > 1:
            sessions.apply(weighted, upstream.session)
        if share.host:
            weighted.host_rewrite_literal = share.host
        _add_header_changes(weighted, share.request, share.response)


def _is_plain(share: Share) -> bool:
    return not (share.request or share.response or share.host)


def _add_header_changes(
    to: route_components_pb2.Route | route_components_pb2.WeightedCluster.ClusterWeight,
    request: HeaderChanges,
    response: HeaderChanges,
) -> None:
    to.request_headers_to_add.extend(_headers(request))
    to.request_headers_to_remove.extend(request.removed)
    to.response_headers_to_add.extend(_headers(response))
    to.response_headers_to_remove.extend(response.removed)


def _headers(changes: HeaderChanges) -> Iterable[base_pb2.HeaderValueOption]:
    option = base_pb2.HeaderValueOption
    for pairs, action in (
        (changes.replaced, option.OVERWRITE_IF_EXISTS_OR_ADD),
        (changes.added, option.APPEND_IF_EXISTS_OR_ADD),
    ):
        for name, value in pairs:
            header = base_pb2.HeaderValue(key=name, value=value)
            yield option(header=header, append_action=action)


def _set_rewrite(result: route_components_pb2.RouteAction, rewrite: PathRewrite, rule: HttpRule) -> None:
    regex = path_regex(rewrite, rule)
    if regex is None:
        result.prefix_rewrite = rewrite.value
    else:
        result.regex_rewrite.CopyFrom(regex)


def path_regex(rewrite: PathRewrite, rule: HttpRule) -> regex_pb2.RegexMatchAndSubstitute | None:
    """Return a rewrite as a regular expression where it needs one; ``None``: the matched prefix is replaced."""
    if rewrite.change is PathChange.REGEX:
        pattern, value = rewrite.pattern, rewrite.value
    elif rewrite.change is PathChange.FULL:
        pattern, value = "/.*", rewrite.value.replace("\\", "\\\\")
    elif matches.removes_prefix(rule.match, rewrite):
        # A prefix of segments that is removed: "/a" and "/a/" become "/", "/a/b" becomes "/b", never "//b".
        pattern, value = matches.prefix_pattern(rule.match), "/"
    else:
        return None
    return regex_pb2.RegexMatchAndSubstitute(pattern=regex_pb2.RegexMatcher(regex=pattern), substitution=value)


def _redirect(redirect: Redirect, called_port: int, rule: HttpRule) -> route_components_pb2.RedirectAction:
    action = Route.RedirectAction
    code = {301: action.MOVED_PERMANENTLY, 302: action.FOUND, 303: action.SEE_OTHER}
    code |= {307: action.TEMPORARY_REDIRECT, 308: action.PERMANENT_REDIRECT}
    result = action(response_code=code[redirect.status], host_redirect=redirect.host, scheme_redirect=redirect.scheme)
    if redirect.port:
        result.port_redirect = redirect.port
    elif redirect.port_source is PortSource.CALLED and not _is_default(called_port, redirect.scheme):
        result.port_redirect = called_port
    if redirect.path is not None and redirect.path.change is PathChange.FULL:
        result.path_redirect = redirect.path.value
    elif redirect.path is not None:
        regex = path_regex(redirect.path, rule)
        if regex is None:
            result.prefix_rewrite = redirect.path.value
        else:
            result.regex_rewrite.CopyFrom(regex)
    return result


def _is_default(port: int, scheme: str) -> bool:
    """Return whether a port is the scheme's own, which a URL leaves out; without a scheme, the port stands for it."""
    own = {80: "http", 443: "https"}.get(port)
    return own is not None and scheme in {"", own}


def _retry(retry: Retry, *, hashes: bool) -> route_components_pb2.RetryPolicy | None:
    """Return the policy; with consistent hashing, another endpoint is not looked for: the key decides."""
    if not retry.attempts:
        return None
    on = (*retry.on, "retriable-status-codes") if retry.statuses else retry.on
    result = Route.RetryPolicy(
        retry_on=",".join(dict.fromkeys(on)), num_retries=number(retry.attempts), retriable_status_codes=retry.statuses
    )
    if not (hashes or retry.may_repeat_endpoint):
        predicate = result.retry_host_predicate.add(name="envoy.retry_host_predicates.previous_hosts")
        predicate.typed_config.CopyFrom(packed(previous_hosts_pb2.PreviousHostsPredicate()))
        result.host_selection_retry_max_attempts = _HOSTS_TRIED
    if retry.per_try_timeout:
        result.per_try_timeout.CopyFrom(duration(retry.per_try_timeout))
    if retry.backoff:
        result.retry_back_off.base_interval.CopyFrom(duration(retry.backoff))
    return result


def _filters(rule: HttpRule) -> Iterable[tuple[str, any_pb2.Any]]:
    if rule.delay is not None or rule.abort is not None:
        yield names.FAULT_FILTER, packed(_fault(rule.delay, rule.abort))
    if rule.cors is not None:
        yield names.CORS_FILTER, packed(_cors(rule.cors))


def _fault(delay: Delay | None, abort: Abort | None) -> fault_pb2.HTTPFault:
    result = fault_pb2.HTTPFault()
    if delay is not None:
        result.delay.CopyFrom(
            common_fault_pb2.FaultDelay(fixed_delay=duration(delay.duration), percentage=millionths(delay.millionths))
        )
    if abort is not None:
        result.abort.percentage.CopyFrom(millionths(abort.millionths))
        if abort.grpc_status is not None:
            result.abort.grpc_status = abort.grpc_status
        else:
            result.abort.http_status = abort.http_status
    return result


def _cors(cors: Cors) -> cors_pb2.CorsPolicy:
    result = cors_pb2.CorsPolicy(
        allow_origin_string_match=[text(origin) for origin in cors.origins],
        allow_methods=",".join(cors.methods),
        allow_headers=",".join(cors.headers),
        expose_headers=",".join(cors.exposed),
        max_age=str(int(cors.max_age / timedelta(seconds=1))) if cors.max_age is not None else "",
        forward_not_matching_preflights=flag(cors.forwards_unmatched_preflights),
    )
    if cors.allows_credentials is not None:
        result.allow_credentials.CopyFrom(flag(cors.allows_credentials))
    result.filter_enabled.default_value.CopyFrom(millionths(1_000_000))
    return result


def _set_origin(result: route_components_pb2.Route, rule: HttpRule) -> None:
    """Note where the route came from, in the form that ``istioctl`` reads, and which rule of it."""
    if not rule.origin.kind:  # our own answer where no route matches
        return
    namespace, name = rule.origin.key
    fields = result.metadata.filter_metadata[names.ISTIO_METADATA].fields
    api, kind = _PATHS[rule.origin.kind]
    fields["config"].string_value = f"/apis/{api}/namespaces/{namespace}/{kind}/{name}"
    fields["rule"].string_value = rule.origin.rule
