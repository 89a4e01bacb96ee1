"""How the value of a patch is merged into what is there.

As protobuf merges: what the value has replaces what is there, lists are joined, entries of maps replaced. Different
from it, so that a value does what its author can only mean:

-   Durations and wrapped values are replaced as a whole: 2 s over 1.5 s is 2 s, and an explicit ``false`` is false.
-   A transport socket of the same name and type is merged within its configuration (Istio does so, too).
"""

from collections.abc import Mapping, MutableSequence
from typing import Any, Final

from envoy.config.core.v3 import base_pb2
from google.protobuf import any_pb2, descriptor_pool, duration_pb2, message_factory, timestamp_pb2, wrappers_pb2
from google.protobuf.message import Message

from controlplane.envoy.packing import packed
from controlplane.envoy.patches.patch import Patch
from meshapi.errors import DataError
from meshapi.resources.envoy_filter import Operation

_WHOLE: Final = frozenset(
    one.DESCRIPTOR.full_name
    for one in (
        any_pb2.Any,
        duration_pb2.Duration,
        timestamp_pb2.Timestamp,
        base_pb2.TransportSocket,
        wrappers_pb2.BoolValue,
        wrappers_pb2.BytesValue,
        wrappers_pb2.DoubleValue,
        wrappers_pb2.FloatValue,
        wrappers_pb2.Int32Value,
        wrappers_pb2.Int64Value,
        wrappers_pb2.StringValue,
        wrappers_pb2.UInt32Value,
        wrappers_pb2.UInt64Value,
    )
)
"""Messages that are replaced as a whole."""


def merge_patch(into: Message, patch: Patch) -> None:
    """Merge the value of a patch into a message, if it has one."""
    if patch.value is not None:
        merge(into, patch.value, replaces_lists=patch.operation is Operation.MERGE_AND_REPLACE_LIST)


def merge(into: Message, value: Message, *, replaces_lists: bool = False) -> None:
    """Merge a message into another one of the same type.

    Args:
        into: is changed.
        value: is merged.
        replaces_lists: whether a list of the value replaces the present list, instead of being appended to it.
    """
    for field, given in value.ListFields():
        held: Any = getattr(into, field.name)
        if isinstance(given, Mapping):
            _merge_map(held, given)
        elif isinstance(given, MutableSequence):
            if replaces_lists:
                del held[:]
            held.extend(given)
        elif not isinstance(given, Message):
            setattr(into, field.name, given)
        elif isinstance(given, base_pb2.TransportSocket) and is_like(held, given):
            merge_configuration(held.typed_config, given.typed_config)
        elif given.DESCRIPTOR.full_name in _WHOLE:
            held.CopyFrom(given)
        else:
            held.SetInParent()
            merge(held, given, replaces_lists=replaces_lists)


def _merge_map(held: Any, given: Mapping[Any, Any]) -> None:
    for key, value in given.items():
        if isinstance(value, Message):
            held[key].CopyFrom(value)
        else:
            held[key] = value


def is_like(held: Any, given: Any) -> bool:
    """Return whether two transport sockets have one name and configurations of one type."""
    return bool(held.name == given.name and held.typed_config.TypeName() == given.typed_config.TypeName() != "")


def merge_configuration(into: any_pb2.Any, value: any_pb2.Any) -> None:
    """Merge an extension's configuration into another one.

    Raises:
        DataError: they are of different types.
    """
    if into.TypeName() != value.TypeName():
        there = into.TypeName() or "no configuration"
        raise DataError(f"{value.TypeName()} cannot be merged into {there}; write a value of the type that is there")
    held, given = _unpacked(into), _unpacked(value)
    merge(held, given)
    into.CopyFrom(packed(held))


def _unpacked(value: any_pb2.Any) -> Message:
    found = descriptor_pool.Default().FindMessageTypeByName(value.TypeName())
    result: Message = message_factory.GetMessageClass(found)()
    value.Unpack(result)
    return result
