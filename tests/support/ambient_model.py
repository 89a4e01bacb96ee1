"""Objects in and out of a model, as the informers would put them."""

from controlplane.ambient.model import Model
from meshapi.resources import base, core
from meshkit.kube import Key


def put(model: Model, *items: base.Object) -> None:
    """Add or replace objects."""
    for item in items:
        _set(model, item, item.key, item)


def remove(model: Model, *items: base.Object) -> None:
    """Remove objects."""
    for item in items:
        _set(model, item, item.key, None)


def _set(model: Model, like: base.Object, key: Key, item: base.Object | None) -> None:
    if isinstance(like, core.Namespace):
        model.inputs.namespaces.set(key, item if isinstance(item, core.Namespace) else None)
    else:
        model.inputs.of(type(like)).set(key, item)
