"""Changes of headers, with a new host taken out of them. Facts: Istio's ``route.go``."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from controlplane.routing.ir import HeaderChanges
from meshapi.resources.virtual_service import HeaderOperations, Headers

_HOST: Final = frozenset({"host", ":authority"})


class Changes(NamedTuple):
    """Changes of a request and its response; ``host`` is a new host, or empty."""

    request: HeaderChanges
    response: HeaderChanges
    host: str


def of_headers(headers: Headers) -> Changes:
    """Return the changes; a replaced host goes before an added one."""
    request = headers.request
    host = _host(request.set) or _host(request.add)
    return Changes(_changes(request), _changes(headers.response), host)


def _changes(operations: HeaderOperations) -> HeaderChanges:
    return HeaderChanges(
        replaced=_pairs(operations.set),
        added=_pairs(operations.add),
        removed=tuple(name for name in operations.remove if not _is_special(name)),
    )


def _pairs(values: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in sorted(values.items()) if not _is_special(name))


def _is_special(name: str) -> bool:
    return name.startswith(":") or name.lower() == "host"


def _host(values: Mapping[str, str]) -> str:
    return next((value for name, value in values.items() if name.lower() in _HOST), "")
