"""What the annotation ``proxy.istio.io/config`` of a gateway's pods says: a ProxyConfig of istio/api, as YAML.

Of its fields gateways honour ``gatewayTopology``, which counts as a whole instead of the mesh configuration's.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError
from pydantic.alias_generators import to_snake

from meshapi import names
from meshapi.mesh_config import notices, reading, unsupported
from meshapi.mesh_config.model import GatewayTopology, ProxyConfig
from meshapi.mesh_config.notices import Notice
from meshapi.mesh_config.unsupported import Unsupported
from meshapi.resources import base

_TOPOLOGY: Final = "gatewayTopology"
_OF_MESH: Final[dict[str, Unsupported]] = {
    "tracing": Unsupported("set it in defaultConfig of the mesh configuration, or use a Telemetry"),
    "holdApplicationUntilProxyStarts": Unsupported("a gateway's pod has no other container to hold", (True, False)),
}
"""Fields that are honoured in the mesh configuration only."""
_KNOWN: Final = (*(info.alias or name for name, info in ProxyConfig.model_fields.items()), *unsupported.PROXY_FIELDS)
_PROTO_NAMES: Final = {to_snake(name): name for name in _KNOWN}
_PLACES: Final = 256
"""How many annotations are kept read: one computation after the other reads the same ones."""


@dataclass(frozen=True, slots=True)
class PodConfig:
    """What an annotation says.

    Attributes:
        topology: what is in front of the gateway; ``None``: the mesh configuration says it.
        problems: what cannot be read, and what has no effect, one sentence each without a full stop.
    """

    topology: GatewayTopology | None = None
    problems: tuple[str, ...] = ()


@functools.lru_cache(_PLACES)
def read(text: str) -> PodConfig:
    """Read an annotation; empty: there is none. Never raises: what cannot be read is among the problems."""
    try:
        document = reading.document(text, _TOPOLOGY)
    except ValueError as error:
        return PodConfig(problems=(f"{_shown('')} {error}; the mesh configuration counts",))
    topology: GatewayTopology | None = None
    found: list[Notice] = []
    for given, value in document.items():
        known = _PROTO_NAMES.get(given, given)
        if value is None:
            continue
        if known != _TOPOLOGY:
            found += _notices(given, known, value)
            continue
        try:
            topology = GatewayTopology.model_validate(value)
        except ValidationError as error:
            field, reason = base.first_fault(error)
            at = f"{_TOPOLOGY}.{field}" if field else _TOPOLOGY
            found.append(Notice(at, f"{reason}; the mesh configuration's counts"))
        else:
            found += [notices.of_extra(*extra) for extra in reading.extra_fields(_TOPOLOGY, topology)]
    return PodConfig(topology, tuple(f"{_shown(one.field)}: {one.text}" for one in found))


def _notices(given: str, known: str, value: Any) -> Iterator[Notice]:
    about = _OF_MESH.get(known) or unsupported.PROXY_FIELDS.get(known)
    if about is None:
        yield notices.of_unknown(given, _KNOWN)
    else:
        yield from notices.of_unsupported(known, value, about)


def _shown(field: str) -> str:
    name = f"annotation {names.PROXY_CONFIG_ANNOTATION} of the gateway's pods"
    return f"{name}, {field}" if field else name
