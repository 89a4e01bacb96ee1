"""Filters of Gateway API's routes. Pure."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from controlplane.routing.ir import (
    Comparison,
    Cors,
    HeaderChanges,
    Mirror,
    PathChange,
    PathRewrite,
    PortSource,
    Redirect,
    Target,
    TextMatch,
)
from meshapi.resources.gateway_routes import (
    BackendReference,
    CorsFilter,
    Filter,
    HeaderFilter,
    MirrorFilter,
    PathModifier,
    PathModifierType,
    RedirectFilter,
)

_ALL: Final = 1_000_000
_UNCHANGED: Final = HeaderChanges()


class Unsupported(Exception):
    """A field asks for what is not supported; the route is not accepted.

    Attributes:
        reason: of the condition.
    """

    def __init__(self, field: str, why: str, reason: str = "UnsupportedValue") -> None:
        super().__init__(f"{field} {why}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Filters:
    """What all filters of a rule, or of a backend, say together."""

    request: HeaderChanges = _UNCHANGED
    response: HeaderChanges = _UNCHANGED
    redirect: Redirect | None = None
    rewrite: PathRewrite | None = None
    host: str = ""
    mirrors: tuple[Mirror, ...] = ()
    cors: Cors | None = None


def of_filters(filters: Iterable[Filter], target: Callable[[BackendReference], Target | None]) -> Filters:
    """Return what filters say.

    Args:
        filters: in the route's order.
        target: resolves a reference to a backend.

    Raises:
        Unsupported: a filter is of an unknown type.
    """
    request = response = _UNCHANGED
    redirect, rewrite, host, cors = None, None, "", None
    mirrors = []
    for index, one in enumerate(filters):
        if one.request_header_modifier is not None:
            request = _changes(one.request_header_modifier)
        elif one.response_header_modifier is not None:
            response = _changes(one.response_header_modifier)
        elif one.request_redirect is not None:
            redirect = _redirect(one.request_redirect)
        elif one.url_rewrite is not None:
            rewrite = None if one.url_rewrite.path is None else _path(one.url_rewrite.path)
            host = one.url_rewrite.hostname
        elif one.request_mirror is not None:
            found = target(one.request_mirror.backend_ref)
            if found is not None and (share := _share(one.request_mirror)):
                mirrors.append(Mirror(found, share))
        elif one.cors is not None:
            cors = _cors(one.cors)
        else:
            raise Unsupported(f"filters[{index}]", f"has the type {one.type}, which is not supported")
    return Filters(request, response, redirect, rewrite, host, tuple(mirrors), cors)


def _changes(given: HeaderFilter) -> HeaderChanges:
    return HeaderChanges(
        replaced=tuple((one.name, one.value) for one in given.set),
        added=tuple((one.name, one.value) for one in given.add),
        removed=given.remove,
    )


def _redirect(given: RedirectFilter) -> Redirect:
    """A port that is not given is the new scheme's own, or the one that was called."""
    return Redirect(
        status=given.status_code,
        scheme=given.scheme,
        host=given.hostname,
        port=given.port,
        port_source=PortSource.SCHEME if given.scheme else PortSource.CALLED,
        path=None if given.path is None else _path(given.path),
    )


def _path(given: PathModifier) -> PathRewrite:
    if given.type is PathModifierType.FULL:
        return PathRewrite(PathChange.FULL, given.replace_full_path)
    return PathRewrite(PathChange.PREFIX, given.replace_prefix_match)


def _share(given: MirrorFilter) -> int:
    if given.fraction is not None:
        return given.fraction.numerator * _ALL // given.fraction.denominator
    return _ALL if given.percent is None else given.percent * (_ALL // 100)


def _cors(given: CorsFilter) -> Cors:
    return Cors(
        origins=tuple(_origin(one) for one in given.allow_origins),
        methods=given.allow_methods,
        headers=given.allow_headers,
        exposed=given.expose_headers,
        max_age=timedelta(seconds=given.max_age),
        allows_credentials=given.allow_credentials or None,
        forwards_unmatched_preflights=False,
    )


def _origin(text: str) -> TextMatch:
    if text == "*":
        return TextMatch(Comparison.PRESENT)
    if "*" in text:
        return TextMatch(Comparison.REGEX, ".*".join(re.escape(part) for part in text.split("*")))
    return TextMatch(Comparison.EXACT, text)
