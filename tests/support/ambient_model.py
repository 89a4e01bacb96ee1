"""Objects in and out of a model, as the informers would put them."""

from controlplane.ambient.model import Model
from meshapi.resources import base


def put(model: Model, *items: base.Object) -> None:
    """Add or replace objects."""
    for item in items:
        model.inputs.of(type(item)).set(item.key, item)


def remove(model: Model, *items: base.Object) -> None:
    """Remove objects."""
    for item in items:
        model.inputs.of(type(item)).set(item.key, None)
