"""Requests that a route is for. Facts: Istio's ``route.go`` (``TranslateRouteMatch``)."""

import re
from typing import Final

from envoy.config.route.v3 import route_components_pb2
from envoy.type.matcher.v3 import filter_state_pb2, metadata_pb2, string_pb2, value_pb2

from controlplane.envoy import names
from controlplane.envoy.packing import flag, regex, text
from controlplane.routing.ir import ClaimMatch, Comparison, NamedMatch, PathRewrite, RequestMatch, TextMatch

Route: Final = route_components_pb2
_METHOD, _SCHEME, _AUTHORITY = ":method", ":scheme", ":authority"
_ROOT: Final = "/"


def of_request(match: RequestMatch) -> route_components_pb2.RouteMatch:
    """Return the match of a request."""
    result = _path(match.path)
    special = ((_METHOD, match.method), (_SCHEME, match.scheme), (_AUTHORITY, match.authority))
    headers = (*(NamedMatch(name, found) for name, found in special if found is not None), *match.headers)
    result.headers.extend(map(_header, headers))
    result.query_parameters.extend(map(_parameter, match.query))
    result.dynamic_metadata.extend(map(_claim, match.claims))
    if match.source_namespace:
        pattern = regex(names.principals_of(match.source_namespace))
        source = filter_state_pb2.FilterStateMatcher(
            key=names.SOURCE_PRINCIPAL_STATE, string_match=string_pb2.StringMatcher(safe_regex=pattern)
        )
        result.filter_state.append(source)
    return result


def _path(path: TextMatch | None) -> route_components_pb2.RouteMatch:
    if path is None or path.comparison is Comparison.PRESENT:
        return Route.RouteMatch(prefix=_ROOT)
    case = flag(False) if path.ignores_case else None
    if path.comparison is Comparison.EXACT:
        return Route.RouteMatch(path=path.value, case_sensitive=case)
    if path.comparison is Comparison.REGEX:
        return Route.RouteMatch(safe_regex=regex(path.value))
    value = path.value.rstrip("/") if path.comparison is Comparison.PATH_PREFIX else path.value
    if path.comparison is Comparison.PATH_PREFIX and value:
        return Route.RouteMatch(path_separated_prefix=value, case_sensitive=case)
    return Route.RouteMatch(prefix=value or _ROOT, case_sensitive=case)


def _header(match: NamedMatch) -> route_components_pb2.HeaderMatcher:
    if match.text.comparison is Comparison.PRESENT:
        return Route.HeaderMatcher(name=match.name, present_match=True, invert_match=match.is_inverted)
    # An absent header is like an empty one for an inverted match: it does not match, so the inverted match does.
    return Route.HeaderMatcher(
        name=match.name,
        string_match=text(match.text),
        invert_match=match.is_inverted,
        treat_missing_header_as_empty=match.is_inverted,
    )


def _parameter(match: NamedMatch) -> route_components_pb2.QueryParameterMatcher:
    if match.text.comparison is Comparison.PRESENT:
        return Route.QueryParameterMatcher(name=match.name, present_match=True)
    return Route.QueryParameterMatcher(name=match.name, string_match=text(match.text))


def _claim(match: ClaimMatch) -> metadata_pb2.MetadataMatcher:
    """A claim is a text, a list of texts, or several words of one text (``scope``); any one of them may match."""
    segment = metadata_pb2.MetadataMatcher.PathSegment
    single = value_pb2.ValueMatcher(string_match=text(match.text))
    any_of = value_pb2.ValueMatcher(
        or_match=value_pb2.OrMatcher(
            value_matchers=[single, value_pb2.ValueMatcher(list_match=value_pb2.ListMatcher(one_of=single))]
        )
    )
    present = match.text.comparison is Comparison.PRESENT
    return metadata_pb2.MetadataMatcher(
        filter=names.JWT_FILTER,
        path=[segment(key=key) for key in (names.JWT_PAYLOAD, *match.path)],
        value=value_pb2.ValueMatcher(present_match=True) if present else any_of,
        invert=match.is_inverted,
    )


def removes_prefix(match: RequestMatch, rewrite: PathRewrite) -> bool:
    """Return whether a rewrite removes a prefix of whole segments."""
    path = match.path
    is_prefix = path is not None and path.comparison is Comparison.PATH_PREFIX and bool(path.value.strip("/"))
    return is_prefix and not rewrite.value.rstrip("/")


def prefix_pattern(match: RequestMatch) -> str:
    """Return an expression for a prefix of segments and the slash behind it."""
    value = "" if match.path is None else match.path.value.rstrip("/")
    return f"^{re.escape(value)}/?"
