"""The order of rules of all routes for one service. Source: Gateway API v1, ``HTTPRouteRule.matches`` and GRPCRoute."""

from collections.abc import Iterable

from controlplane.routing.ir import Comparison, HttpRule, TextMatch
from controlplane.routing.route_references import RouteRules


def ordered(routes: Iterable[RouteRules]) -> tuple[HttpRule, ...]:
    """Return the rules of routes, the most specific ones first; of equal ones, those of the oldest route."""
    by_age = sorted(routes, key=lambda route: (route.created, route.key))
    return tuple(sorted((rule for route in by_age for rule in route.rules), key=rank))


def rank(rule: HttpRule) -> tuple[int, int, int, int, int]:
    """Return the place of a rule among others: the smallest goes first."""
    match = rule.match
    return (
        *_path_rank(match.path),
        0 if match.method is not None else 1,
        -len(match.headers),
        -len(match.query),
    )


def _path_rank(path: TextMatch | None) -> tuple[int, int]:
    """An exact path goes before a prefix, that before an expression; then the longer one goes first."""
    if path is None:
        return (3, 0)
    ranks = {Comparison.EXACT: 0, Comparison.PREFIX: 1, Comparison.PATH_PREFIX: 1, Comparison.REGEX: 2}
    if path.value == "/" and path.comparison is Comparison.PATH_PREFIX:
        return (3, 0)
    return (ranks[path.comparison], -len(path.value))
