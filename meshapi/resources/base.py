"""What all Kubernetes objects share: metadata, and reading an object into a model.

Models of core objects hold only the fields that are read: everything else, such as heartbeats and managed fields, is
dropped on reading, so two readings are equal exactly when nothing that matters has changed.
"""

import ipaddress
from collections.abc import Iterator
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from meshapi.errors import InvalidResource, brief


class Model(BaseModel):
    """Base of every model: camel-case names as in Kubernetes, unknown fields dropped, ``null`` read as absent."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return {key: value for key, value in data.items() if value is not None}
        return data


class LenientModel(Model):
    """A model that keeps fields which it does not know."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="allow")


def ip_block(value: str) -> str:
    """Check an IP address or CIDR."""
    try:
        ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise ValueError("is not an IP address or CIDR; write as 10.0.0.0/8 or 10.1.2.3") from None
    return value


IpBlock = Annotated[str, AfterValidator(ip_block)]


class OwnerReference(Model):
    """Who made an object."""

    kind: str
    name: str
    controller: bool = False


class Metadata(Model):
    """Name and labels of an object. Times are RFC 3339 text, which sorts by time."""

    name: str
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    creation_timestamp: str = ""
    deletion_timestamp: str = ""
    owner_references: tuple[OwnerReference, ...] = ()


class Object(Model):
    """One Kubernetes object."""

    metadata: Metadata

    @property
    def key(self) -> tuple[str, str]:
        """Namespace (empty where there is none) and name."""
        return (self.metadata.namespace, self.metadata.name)


ObjectT = TypeVar("ObjectT", bound=Object)


def read(model: type[ObjectT], item: dict[str, Any]) -> ObjectT:
    """Read one object as the API sends it.

    Raises:
        InvalidResource: a field has a wrong type or value; the error names the first one.
    """
    try:
        return model.model_validate(item)
    except ValidationError as error:
        metadata = item.get("metadata") or {}
        name = "/".join(part for part in (metadata.get("namespace"), metadata.get("name")) if part)
        field, reason = first_fault(error)
        raise InvalidResource(model.__name__, name, field, reason) from error


def first_fault(error: ValidationError) -> tuple[str, str]:
    """Return the path of the first field at fault, and what is wrong with it."""
    fault = error.errors(include_url=False, include_context=False)[0]
    given = fault.get("input")
    shown = f" (found {brief(repr(given))})" if isinstance(given, str | int | bool) else ""
    return brief(field_path(fault["loc"])), brief(fault["msg"].removeprefix("Value error, ")) + shown


def field_path(location: tuple[str | int, ...]) -> str:
    """Return a field's path in the form that Kubernetes uses, as ``spec.rules[0].from[1]``."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.removeprefix(".")


def unknown_fields(item: Object) -> list[str]:
    """Return the paths of fields that mean nothing here, as ``spec.rules[0].from[0].source.pricipals``."""
    return sorted(_unknown("spec", getattr(item, "spec", None)))


def _unknown(path: str, value: object) -> Iterator[str]:
    if isinstance(value, BaseModel):
        for name in value.model_extra or {}:
            yield f"{path}.{name}"
        for name, field in type(value).model_fields.items():
            yield from _unknown(f"{path}.{field.alias or name}", getattr(value, name))
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from _unknown(f"{path}[{index}]", item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _unknown(f"{path}.{key}", item)
