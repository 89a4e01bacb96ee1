"""How lists are patched: filters, routes."""

from collections.abc import Callable, MutableSequence, Sequence
from typing import Any

from google.protobuf import any_pb2

from controlplane.envoy.patches import merging
from controlplane.envoy.patches.patch import Patch, Patching
from meshapi.errors import DataError
from meshapi.resources.envoy_filter import Operation

Chosen = Callable[[Any], bool]
"""Whether a patch matches an entry of a list."""


def edit(items: MutableSequence[Any], patch: Patch, chosen: Chosen | None, end: int) -> bool:
    """Add to a list, replace or remove in it; return whether the patch was applied. It is not merged here.

    Args:
        items: is changed.
        patch: what is done.
        chosen: whether the patch matches an entry; ``None``: its match names no entry.
        end: position of what is added.
    """
    if patch.operation is Operation.REMOVE:
        return _remove(items, chosen)
    if patch.value is None or patch.merges:
        return False
    at = _position(items, patch.operation, chosen, end)
    if at is None:
        return False
    if patch.operation is Operation.REPLACE:
        items[at].CopyFrom(patch.value)
    else:
        items.insert(at, patch.value)
    return True


def _position(items: Sequence[Any], operation: Operation, chosen: Chosen | None, end: int) -> int | None:
    """Return where something is inserted or replaced; ``None``: the patch matches no entry."""
    if operation is Operation.ADD:
        return end
    if operation is Operation.INSERT_FIRST:
        return 0
    if chosen is None:
        return {Operation.INSERT_BEFORE: 0, Operation.INSERT_AFTER: end}.get(operation)
    at = next((position for position, one in enumerate(items) if chosen(one)), None)
    return at + 1 if at is not None and operation is Operation.INSERT_AFTER else at


def _remove(items: MutableSequence[Any], chosen: Chosen | None) -> bool:
    found = [position for position, one in enumerate(items) if chosen is not None and chosen(one)]
    for position in reversed(found):
        del items[position]
    return bool(found)


def merge_filter(filter_: Any, patch: Patch, patching: Patching, *, is_named: bool) -> None:
    """Merge a patch into a filter: its name, and within its configuration.

    Args:
        filter_: is changed; of listeners, connections or requests.
        patch: what is merged.
        patching: where the effect is noted.
        is_named: whether the patch names the filter; else it is for those whose configuration is of the value's type.
    """
    value: Any = patch.value
    held: any_pb2.Any = filter_.typed_config
    if value.HasField("typed_config"):
        if not is_named and held.TypeName() != value.typed_config.TypeName():
            return
        try:
            merging.merge_configuration(held, value.typed_config)
        except DataError as error:
            patching.failed(patch, f"filter {filter_.name}: {error}")
            return
    if value.name:
        filter_.name = value.name
    patching.applied(patch)
