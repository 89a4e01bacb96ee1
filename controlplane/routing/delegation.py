"""Rules that another VirtualService has: what both say together. Pure.

Facts: Istio's ``pilot/pkg/model/virtualservice.go``. A rule of the delegate is narrower than the rule that delegates:
what they cannot both match is left out. What the delegate does not say, it has from the other one.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from meshapi.resources.values import StringMatch
from meshapi.resources.virtual_service import Headers, HTTPMatchRequest, HTTPRoute, VirtualService

_INHERITED: Final = (
    "rewrite",
    "direct_response",
    "timeout",
    "retries",
    "fault",
    "mirror",
    "mirrors",
    "mirror_percent",
    "mirror_percentage",
    "cors_policy",
)
_TEXTS: Final = ("uri", "scheme", "method", "authority")
_SINGLE: Final = ("port", "source_namespace", "gateways")
_MAPPINGS: Final = ("headers", "without_headers", "query_params")


def merged(root: HTTPRoute, delegate: VirtualService) -> Iterator[tuple[int, HTTPRoute]]:
    """Yield the delegate's rules as they count for a rule that delegates, with their positions."""
    for index, leaf in enumerate(delegate.spec.http):
        if leaf.delegate is not None:
            continue  # only one level
        matches = tuple(_matches(root.match, leaf.match))
        if (root.match or leaf.match) and not matches:
            continue
        given = {name: getattr(root, name) for name in _INHERITED if not getattr(leaf, name)}
        if leaf.route or leaf.redirect is not None:
            given.pop("direct_response", None)
        names = [name for name in (root.name, leaf.name) if name]
        headers = leaf.headers if leaf.headers != Headers() else root.headers
        yield index, leaf.model_copy(update={**given, "match": matches, "name": "-".join(names), "headers": headers})


def _matches(root: tuple[HTTPMatchRequest, ...], leaf: tuple[HTTPMatchRequest, ...]) -> Iterator[HTTPMatchRequest]:
    for outer in root or (HTTPMatchRequest(),):
        for inner in leaf or (HTTPMatchRequest(),):
            if (both := _match(outer, inner)) is not None:
                yield both


def _match(root: HTTPMatchRequest, leaf: HTTPMatchRequest) -> HTTPMatchRequest | None:
    """Return what both matches ask for; ``None`` where nothing can be both."""
    if any(_conflict(getattr(root, name), getattr(leaf, name)) for name in _TEXTS):
        return None
    if any(_any_conflict(getattr(root, name), getattr(leaf, name)) for name in _MAPPINGS):
        return None
    for name in _SINGLE:
        outer, inner = getattr(root, name), getattr(leaf, name)
        if outer and inner and outer != inner:
            return None
    texts = {
        name: getattr(leaf, name) or getattr(root, name) for name in (*_TEXTS, "port", "source_namespace", "gateways")
    }
    mappings = {name: {**getattr(root, name), **getattr(leaf, name)} for name in (*_MAPPINGS, "source_labels")}
    names = [name for name in (root.name, leaf.name) if name]
    ignores_case = leaf.ignore_uri_case if leaf.uri is not None else root.ignore_uri_case
    return leaf.model_copy(update={**texts, **mappings, "name": "-".join(names), "ignore_uri_case": ignores_case})


def _any_conflict(root: Mapping[str, StringMatch], leaf: Mapping[str, StringMatch]) -> bool:
    return any(_conflict(match, leaf.get(name)) for name, match in root.items())


def _conflict(root: StringMatch | None, leaf: StringMatch | None) -> bool:
    """Return whether the inner match is not narrower than the outer one, as far as that can be said."""
    if root is None or leaf is None:
        return False
    if root.regex is not None or leaf.regex is not None:
        return True
    inner = leaf.exact if leaf.exact is not None else leaf.prefix or ""
    if root.exact is not None:
        return leaf.exact != root.exact
    return not inner.startswith(root.prefix or "")
