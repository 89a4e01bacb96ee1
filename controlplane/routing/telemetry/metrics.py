"""Which of the standard metrics a waypoint reports, and with which labels. A waypoint is on the server's side."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from meshapi.mesh_config import providers as builtin
from meshapi.mesh_config.providers import ExtensionProvider
from meshapi.resources.telemetry import IstioMetric, Metrics, MetricSelector, Operation, Telemetry, WorkloadMode

NAMES: Final = {
    IstioMetric.REQUEST_COUNT: "requests_total",
    IstioMetric.REQUEST_DURATION: "request_duration_milliseconds",
    IstioMetric.REQUEST_SIZE: "request_bytes",
    IstioMetric.RESPONSE_SIZE: "response_bytes",
    IstioMetric.TCP_OPENED_CONNECTIONS: "tcp_connections_opened_total",
    IstioMetric.TCP_CLOSED_CONNECTIONS: "tcp_connections_closed_total",
    IstioMetric.TCP_SENT_BYTES: "tcp_sent_bytes_total",
    IstioMetric.TCP_RECEIVED_BYTES: "tcp_received_bytes_total",
}
"""The metrics that waypoints report, by Telemetry's name: theirs without ``istio_``."""


@dataclass(frozen=True, slots=True)
class Change:
    """How one metric is changed.

    Attributes:
        is_off: whether it is not reported.
        labels: by name the expression (CEL); ``None``: the label is left out.
    """

    is_off: bool = False
    labels: Mapping[str, str | None] = field(default_factory=dict)


Changes = Mapping[str, Change]
"""By name of the metric, without ``istio_``; what is not there is reported as it is."""
NOTHING: Final[Changes] = {name: Change(is_off=True) for name in NAMES.values()}


def chosen(
    telemetries: Sequence[Telemetry], defaults: Sequence[str], providers: Mapping[str, ExtensionProvider]
) -> Changes:
    """Return how the metrics of a waypoint are changed.

    Args:
        telemetries: the ones in force, the most general one first.
        defaults: names of the default providers; none: the one that is always there.
        providers: by name in lower case.
    """
    entries = [entry for one in telemetries for entry in one.spec.metrics]
    inherited = [name.lower() for name in defaults] or [builtin.PROMETHEUS]
    users: list[list[str]] = []
    for entry in entries:
        inherited = [one.name.lower() for one in entry.providers] or inherited
        users.append(inherited)
    # The last entry that names providers says which ones there are. Envoy's numbers are there once, for all of them.
    counting = sorted(name for name in inherited if name in providers and providers[name].prometheus is not None)
    if not counting:
        return NOTHING
    own = [entry for entry, names in zip(entries, users, strict=True) if counting[0] in names]
    return _merged(own)


def metrics_of(match: MetricSelector) -> Iterable[str]:
    """Yield the names of the metrics that are chosen, without ``istio_``."""
    if match.custom_metric is not None:
        yield match.custom_metric
    elif match.is_all or match.metric is None:
        yield from NAMES.values()
    elif match.metric in NAMES:
        yield NAMES[match.metric]


def _merged(entries: Iterable[Metrics]) -> Changes:
    """Return what entries say together: later ones change what earlier ones say.

    Where all metrics are turned off, whatever is said of any metric afterwards turns them on again.
    """
    is_off: dict[str, bool] = {}
    labels: dict[str, dict[str, str | None]] = {}
    is_all_off = False
    for override in (one for entry in entries for one in entry.overrides):
        if not override.match.mode.covers(WorkloadMode.SERVER):
            continue
        is_all_off = override.match.is_all and bool(override.disabled)
        if is_all_off:
            continue
        for metric in metrics_of(override.match):
            if override.disabled is not None:
                is_off[metric] = override.disabled
            for name, tag in override.tag_overrides.items():
                labels.setdefault(metric, {})[name] = None if tag.operation is Operation.REMOVE else tag.value
    if is_all_off:
        return NOTHING
    return {name: Change(is_off.get(name, False), labels.get(name, {})) for name in is_off.keys() | labels.keys()}
