"""What of a Telemetry has no effect at waypoints, and why. Pure."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from controlplane.routing.telemetry import metrics
from meshapi.mesh_config.log_providers import Collector
from meshapi.mesh_config.model import DefaultProviders
from meshapi.mesh_config.providers import ExtensionProvider
from meshapi.resources.telemetry import Metrics, ProviderRef, Telemetry, Tracing, WorkloadMode

_NOBODY: Final = "no provider is named, so it has no effect; name one in providers, or in defaultProviders"
Faults = Callable[[Collector], str | None]
"""Returns why nothing can be sent to a collector; ``None``: something can."""


def of_telemetry(
    item: Telemetry, providers: Mapping[str, ExtensionProvider], faults: Faults, *, is_in_force: bool = False
) -> Iterator[str]:
    """Yield what has no effect, with the path of the field.

    Args:
        item: the Telemetry.
        providers: by name in lower case.
        faults: says what is wrong with a collector.
        is_in_force: whether it counts anywhere: a selector may match the pods of gateways.
    """
    spec = item.spec
    if not is_in_force and not spec.is_for_namespace and not spec.targets:
        yield "spec.selector: a waypoint has no labels that it could choose; name the target in targetRefs"
    for index, entry in enumerate(spec.access_logging):
        at = f"spec.accessLogging[{index}]"
        yield from _of_mode(f"{at}.match.mode", entry.match.mode)
        yield from _of_providers(
            at, entry.providers, providers, faults, use="access logs", find=lambda one: one.access_log
        )
    for index, one in enumerate(spec.metrics):
        yield from _of_metrics(f"spec.metrics[{index}]", one, providers, faults)
    for index, trace in enumerate(spec.tracing):
        yield from _of_tracing(f"spec.tracing[{index}]", trace, providers, faults)


def _of_tracing(at: str, entry: Tracing, providers: Mapping[str, ExtensionProvider], faults: Faults) -> Iterator[str]:
    yield from _of_mode(f"{at}.match.mode", entry.match.mode)
    yield from _of_providers(at, entry.providers, providers, faults, use="traces", find=lambda one: one.tracing)
    if len(entry.providers) > 1:
        yield f"{at}.providers: only the first one counts; remove the others"
    if entry.disable_context_propagation:
        yield f"{at}.disableContextPropagation has no effect: requests go on with the headers of their trace"


def _of_metrics(at: str, entry: Metrics, providers: Mapping[str, ExtensionProvider], faults: Faults) -> Iterator[str]:
    yield from _of_providers(at, entry.providers, providers, faults, use="metrics", find=lambda one: one.prometheus)
    if entry.reporting_interval is not None:
        yield f"{at}.reportingInterval has no effect: connections are counted when they begin, and when they end"
    for index, one in enumerate(entry.overrides):
        of_match = f"{at}.overrides[{index}].match"
        yield from _of_mode(f"{of_match}.mode", one.match.mode)
        custom, known = one.match.custom_metric, metrics.NAMES.values()
        if custom is not None and custom not in known:
            yield f"{of_match}.customMetric: {custom} is no metric of waypoints; there are {', '.join(known)}"
        # What is not reported cannot be turned off; changes of its labels would be missed.
        is_unknown = not one.match.is_all and one.match.metric is not None and one.match.metric not in metrics.NAMES
        if is_unknown and (one.tag_overrides or one.disabled is False):
            yield f"{of_match}.metric: waypoints do not report {one.match.metric}"


def of_missing_providers(item: Telemetry, parents: Iterable[Telemetry], defaults: DefaultProviders) -> Iterator[str]:
    """Yield the settings that have no effect because no provider is named.

    Args:
        item: the Telemetry.
        parents: those that it inherits from.
        defaults: of the mesh configuration.
    """
    family = (item, *parents)
    logs_somewhere = defaults.access_logging or any(e.providers for one in family for e in one.spec.access_logging)
    if item.spec.access_logging and not logs_somewhere:
        yield f"spec.accessLogging: {_NOBODY}.accessLogging"
    traces_somewhere = defaults.tracing or any(e.providers for one in family for e in one.spec.tracing)
    if item.spec.tracing and not traces_somewhere:
        yield f"spec.tracing: {_NOBODY}.tracing"


def _of_mode(at: str, mode: WorkloadMode) -> Iterator[str]:
    if not mode.covers(WorkloadMode.SERVER):
        yield f"{at}: CLIENT has no effect, a waypoint is on the server's side; write SERVER, or leave it out"


def _of_providers(
    at: str,
    named: Iterable[ProviderRef],
    providers: Mapping[str, ExtensionProvider],
    faults: Faults,
    *,
    use: str,
    find: Callable[[ExtensionProvider], object | None],
) -> Iterator[str]:
    for index, one in enumerate(named):
        path, provider = f"{at}.providers[{index}]", providers.get(one.name.lower())
        if provider is None:
            yield f"{path}: the mesh configuration has no extensionProvider {one.name}"
            continue
        found = find(provider)
        if found is None:
            yield f"{path}: {one.name} is no provider for {use}"
        elif isinstance(found, Collector) and (fault := faults(found)):
            yield f"{path}: {one.name} cannot be reached: {fault}"
