"""Reads the mesh configuration field by field: good values, faulty values, and fields without an effect.

A bad value is reported and its last good value stays in force; the other fields take effect. A text that is not a
YAML mapping changes nothing: all last good values stay in force.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_snake

from meshapi import names
from meshapi.errors import brief
from meshapi.mesh_config import access_log_format, notices, unsupported
from meshapi.mesh_config.model import AccessLogEncoding, MeshConfig
from meshapi.mesh_config.notices import Notice
from meshapi.resources import base

_PREFIX: Final = f"data.{names.MESH_CONFIG_KEY}"
_HONOURED: Final = {info.alias or name: name for name, info in MeshConfig.model_fields.items()}
_KNOWN: Final = frozenset({*_HONOURED, *unsupported.FIELDS})
_PROTO_NAMES: Final = {to_snake(name): name for name in _KNOWN} | {"mesh_mTLS": "meshMTLS"}
_LOG_FORMAT: Final = ("accessLogFormat", "accessLogEncoding")
"""A format is only good for its encoding: both stay together when the format is bad."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One config map, read.

    Attributes:
        name: ``namespace/name`` of the config map.
        content: the good values of honoured fields, as written, by their JSON names.
        faults: bad values: field and reason.
        notices: fields that have no effect, or another one than expected.
        is_mapping: whether the text could be read at all.
    """

    name: str
    content: Mapping[str, Any] = field(default_factory=dict)
    faults: tuple[Notice, ...] = ()
    notices: tuple[Notice, ...] = ()
    is_mapping: bool = True

    def with_last_good(self, last_good: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values in force: the good ones, and for each bad one its value in ``last_good``."""
        if not self.is_mapping:
            return dict(last_good)
        faulty = {one for fault in self.faults for one in _together(fault.field.split(".")[0].split("[")[0])}
        return {one: last_good[one] for one in sorted(faulty & last_good.keys())} | dict(self.content)

    @property
    def messages(self) -> list[str]:
        """All messages for the user, one sentence each; bad values first."""
        stays = "the last good value stays in force" if self.is_mapping else "the last good ones stay in force"
        faults = [f"{path(fault.field)}: {fault.text}; {stays}" for fault in self.faults]
        return faults + [f"{path(notice.field)}: {notice.text}" for notice in self.notices]


def path(field_name: str) -> str:
    """Return a field's path in the config map."""
    return f"{_PREFIX}.{field_name}" if field_name else _PREFIX


def config_of(content: Mapping[str, Any]) -> MeshConfig:
    """Return the configuration of values that were found good."""
    return MeshConfig.model_validate(content)


def read(config_map: Mapping[str, Any]) -> Reading:
    """Read a config map. Never raises: what cannot be read is among the faults."""
    metadata = config_map["metadata"]
    name = f"{metadata.get('namespace', '')}/{metadata['name']}"
    try:
        fields = document((config_map.get("data") or {}).get(names.MESH_CONFIG_KEY, ""))
    except ValueError as error:
        return Reading(name, faults=(Notice("", str(error)),), is_mapping=False)
    content: dict[str, Any] = {}
    faults: list[Notice] = []
    found: list[Notice] = []
    for given, value in fields.items():
        known = _PROTO_NAMES.get(given, given)
        if value is None:
            continue
        if known in unsupported.FIELDS:
            found += notices.of_unsupported(known, value, unsupported.FIELDS[known])
        elif known not in _HONOURED:
            found.append(notices.of_unknown(given, _KNOWN))
        else:
            fault = _check(known, value)
            if fault is None:
                content[known] = value
            else:
                faults.append(fault)
    faults += _check_log_format(content)
    config = config_of(content)
    found += notices.of_config(config)
    found += [notices.of_extra(*extra) for extra in extra_fields("", config)]
    return Reading(name, content, tuple(faults), tuple(found))


def document(text: str, example: str = "trustDomain") -> dict[str, Any]:
    """Return the fields of a message that is written in YAML.

    Args:
        text: the YAML.
        example: name of a field, for the error.

    Raises:
        ValueError: it is no mapping; the text says so and how to put it right.
    """
    try:
        found: Any = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"is not YAML: {brief(reason)}; correct the text") from error
    if not isinstance(found, dict):
        raise ValueError(f"is not a mapping; write fields such as {example}")
    return {str(key): value for key, value in found.items()}


def _check(known: str, value: Any) -> Notice | None:
    """Check the value of one honoured field by itself."""
    try:
        MeshConfig.model_validate({known: value})
    except ValidationError as error:
        return Notice(*base.first_fault(error))
    return None


def _check_log_format(content: dict[str, Any]) -> Iterator[Notice]:
    """Check the format against the encoding; remove both where it is bad."""
    config = config_of({name: content[name] for name in _LOG_FORMAT if name in content})
    check = access_log_format.check_text
    if config.access_log_encoding is AccessLogEncoding.JSON and config.access_log_format:
        check = access_log_format.check_json
    try:
        check(config.access_log_format)
    except ValueError as error:
        for name in _LOG_FORMAT:
            content.pop(name, None)
        yield Notice(_LOG_FORMAT[0], str(error))


def _together(known: str) -> tuple[str, ...]:
    return _LOG_FORMAT if known in _LOG_FORMAT else (known,)


def extra_fields(at: str, value: object) -> Iterator[tuple[str, str, Iterable[str]]]:
    """Yield the fields that nested messages do not know: path of the message, name, and the names that it knows."""
    if isinstance(value, BaseModel):
        known = [info.alias or name for name, info in type(value).model_fields.items()]
        for name in value.model_extra or {}:
            yield at, name, known
        for name, info in type(value).model_fields.items():
            below = info.alias or name
            yield from extra_fields(f"{at}.{below}" if at else below, getattr(value, name))
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from extra_fields(f"{at}[{index}]", item)
