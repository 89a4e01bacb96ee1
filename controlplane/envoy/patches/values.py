"""Values of patches: from JSON to Envoy's messages.

A message in an ``Any`` is known by its ``@type`` once its module is imported. Modules are imported when a patch first
names a type of theirs, and only those of Envoy's and xDS' own packages: a user's text must not import anything else.
"""

import difflib
import functools
import importlib
import pkgutil
import re
from collections.abc import Iterable
from typing import Any, Final

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import extension_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from google.protobuf import descriptor_pool, json_format
from google.protobuf.message import Message

from meshapi.errors import DataError
from meshapi.resources.envoy_filter import ApplyTo

KINDS: Final[dict[ApplyTo, type[Message]]] = {
    ApplyTo.LISTENER: listener_pb2.Listener,
    ApplyTo.LISTENER_FILTER: listener_components_pb2.ListenerFilter,
    ApplyTo.FILTER_CHAIN: listener_components_pb2.FilterChain,
    ApplyTo.NETWORK_FILTER: listener_components_pb2.Filter,
    ApplyTo.HTTP_FILTER: http_connection_manager_pb2.HttpFilter,
    ApplyTo.ROUTE_CONFIGURATION: route_pb2.RouteConfiguration,
    ApplyTo.VIRTUAL_HOST: route_components_pb2.VirtualHost,
    ApplyTo.HTTP_ROUTE: route_components_pb2.Route,
    ApplyTo.CLUSTER: cluster_pb2.Cluster,
    ApplyTo.EXTENSION_CONFIG: extension_pb2.TypedExtensionConfig,
}
"""The message that is patched, by what a patch applies to."""
_TYPE_FIELD: Final = "@type"
_PACKAGE: Final = re.compile(r"(envoy|xds|udpa)(\.[a-z][a-z0-9_]*)+")
_OLD: Final = ".v2."
_UNKNOWN_FIELD: Final = re.compile(r'Message type "(?P<type>[^"]+)" has no field named "(?P<field>[^"]+)"')
_KNOWN_FIELDS: Final = re.compile(r"'(\w+)'")
_MAX_DEPTH: Final = 100
"""As protobuf's own limit."""


def message(apply_to: ApplyTo, value: dict[str, Any]) -> Message:
    """Return the value of a patch as a message.

    Raises:
        DataError: it is none; says what is wrong and the fix.
    """
    for type_url in _types(value, _MAX_DEPTH):
        _load(type_url)
    result = KINDS[apply_to]()
    try:
        json_format.ParseDict(value, result)
    # Of a value of the wrong type, the parser raises whatever its use of the value does.
    except (json_format.ParseError, AttributeError, TypeError, ValueError, KeyError) as error:
        raise DataError(_explained(str(error))) from None
    return result


def _types(value: object, depth: int) -> Iterable[object]:
    """Yield what stands in all ``@type`` of a value."""
    if not depth:
        raise DataError(f"is nested in more than {_MAX_DEPTH} levels; write it flatter")
    if isinstance(value, dict):
        if _TYPE_FIELD in value:
            yield value[_TYPE_FIELD]
        for one in value.values():
            yield from _types(one, depth - 1)
    elif isinstance(value, list):
        for one in value:
            yield from _types(one, depth - 1)


def _load(type_url: object) -> None:
    """Import the module of a type. Raises ``DataError`` where there is no such type."""
    name = type_url.rpartition("/")[2] if isinstance(type_url, str) else ""
    if not name:
        raise DataError(f"@type {type_url!r} names none; write as type.googleapis.com/envoy.config.cluster.v3.Cluster")
    if _OLD in f".{name}":
        raise DataError(f"@type {name} is of Envoy's v2 API, which proxies do not take; write the one of its v3 API")
    _import(name.rpartition(".")[0])
    try:
        descriptor_pool.Default().FindMessageTypeByName(name)
    except KeyError:
        raise DataError(
            f"@type {name} is not known to waypoints, whose proxy is stock Envoy; write a type of Envoy's v3 API"
        ) from None


@functools.lru_cache(maxsize=1024)
def _import(package: str) -> None:
    """Import the modules of messages of a protobuf package; of one that there is not, nothing."""
    if not _PACKAGE.fullmatch(package):
        return
    try:
        found = importlib.import_module(package)
    except ImportError:
        return
    for one in pkgutil.iter_modules(getattr(found, "__path__", ())):
        if one.name.endswith("_pb2"):
            importlib.import_module(f"{package}.{one.name}")


def _explained(error: str) -> str:
    """Return what is wrong, from the parser's message; of a field that is not known, the one that may be meant."""
    found = _UNKNOWN_FIELD.search(error)
    if found is None:
        return " ".join(error.split())
    known = _KNOWN_FIELDS.findall(error.partition("Available Fields")[2])
    close = difflib.get_close_matches(found["field"], known, n=1)
    fix = f"write {close[0]}" if close else f"it has {', '.join(known)}"
    return f"{found['type']} has no field {found['field']}; {fix}"
