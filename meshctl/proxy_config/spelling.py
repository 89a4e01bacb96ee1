"""Names of fields as protobuf's JSON has them. Pure.

Envoy's admin pages write them as in the protocol's definition (``filter_chains``), ``istioctl`` in camel case
(``filterChains``), and so do programs that read its output. Keys of maps are data and stay as they are.
"""

import re
from typing import Any, Final

_MAPS: Final = frozenset(
    {"typed_extension_protocol_options", "typed_filter_metadata", "typed_per_filter_config", "map"}
)
"""Fields whose keys are data and whose values are messages."""
_STRUCTS: Final = frozenset({"filter_metadata", "static_layer", "json_format", "labels", "fields", "attributes"})
"""Fields that hold nothing but data."""
_WORD: Final = re.compile(r"_([a-z0-9])")


def camel_case(item: Any) -> Any:
    """Return a document with the other spelling."""
    if isinstance(item, list | tuple):
        return [camel_case(one) for one in item]
    if not isinstance(item, dict):
        return item
    return {_name(key): _value(key, value) for key, value in item.items()}


def _value(key: str, value: Any) -> Any:
    if key in _STRUCTS or (key == "metadata" and not _is_typed_metadata(value)):
        return value
    if key in _MAPS and isinstance(value, dict):
        return {name: camel_case(one) for name, one in value.items()}
    return camel_case(value)


def _is_typed_metadata(value: Any) -> bool:
    """Whether it is ``envoy.config.core.v3.Metadata``; that of a node is a map of its own."""
    return isinstance(value, dict) and set(value) <= {"filter_metadata", "typed_filter_metadata"}


def _name(key: str) -> str:
    return _WORD.sub(lambda found: found.group(1).upper(), key)
