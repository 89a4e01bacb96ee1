"""Whether and how a waypoint reports spans. A waypoint is on the server's side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from meshapi.mesh_config.model import MeshConfig
from meshapi.mesh_config.providers import ExtensionProvider
from meshapi.resources.telemetry import CustomTag, Telemetry, WorkloadMode

_SAMPLING: Final = 1.0
"""Percentage where no object sets one (Istio, ``PILOT_TRACE_SAMPLING``)."""


@dataclass(frozen=True, slots=True)
class Traces:
    """How spans are reported.

    Attributes:
        provider: where they go.
        sampling: share of the requests without a decision that are traced, in percent.
        tags: tags that users want, by name.
        has_istio_tags: whether Istio's tags about the proxy are among them.
        uses_request_id: whether the decision of before is read from the request's ID.
        max_path_length: of the tag with the path; 0: Envoy's own.
    """

    provider: ExtensionProvider
    sampling: float = _SAMPLING
    tags: Mapping[str, CustomTag] = field(default_factory=dict)
    has_istio_tags: bool = True
    uses_request_id: bool = True
    max_path_length: int = 0


def chosen(
    telemetries: Sequence[Telemetry], config: MeshConfig, usable: Mapping[str, ExtensionProvider]
) -> Traces | None:
    """Return how a waypoint reports spans; ``None``: it does not.

    Args:
        telemetries: the ones in force, the most general one first.
        config: the mesh configuration.
        usable: providers that can take spans, by name in lower case.
    """
    defaults = config.default_config.tracing
    name = config.default_providers.tracing[0] if config.default_providers.tracing else ""
    is_off, has_istio_tags, uses_request_id = False, True, True
    sampling = defaults.sampling or _SAMPLING
    tags: Mapping[str, CustomTag] = {}
    for entry in (one for item in telemetries for one in item.spec.tracing):
        if not entry.match.mode.covers(WorkloadMode.SERVER):
            continue
        name = entry.providers[0].name if entry.providers else name
        is_off = _said(entry.disable_span_reporting, is_off)
        has_istio_tags = _said(entry.enable_istio_tags, has_istio_tags)
        uses_request_id = _said(entry.use_request_id_for_trace_sampling, uses_request_id)
        tags = tags if entry.custom_tags is None else entry.custom_tags
        sampling = sampling if entry.random_sampling_percentage is None else entry.random_sampling_percentage
    provider = usable.get(name.lower())
    if is_off or provider is None or provider.tracing is None:
        return None
    return Traces(
        provider,
        sampling,
        tags or defaults.custom_tags,
        has_istio_tags,
        uses_request_id,
        provider.tracing.max_tag_length or defaults.max_path_tag_length,
    )


def _said(new: bool | None, before: bool) -> bool:
    return before if new is None else new
