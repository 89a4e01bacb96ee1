"""What of a Telemetry has no effect at waypoints, and why. Pure."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from meshapi.mesh_config.log_providers import Collector
from meshapi.mesh_config.providers import ExtensionProvider
from meshapi.resources.telemetry import ProviderRef, Telemetry, WorkloadMode

Faults = Callable[[Collector], str | None]
"""Returns why nothing can be sent to a collector; ``None``: something can."""


def of_telemetry(item: Telemetry, providers: Mapping[str, ExtensionProvider], faults: Faults) -> Iterator[str]:
    """Yield what has no effect, with the path of the field.

    Args:
        item: the Telemetry.
        providers: by name in lower case.
        faults: says what is wrong with a collector.
    """
    spec = item.spec
    if not spec.is_for_namespace and not spec.targets:
        yield "spec.selector: a waypoint has no labels that it could choose; name the target in targetRefs"
    for index, entry in enumerate(spec.access_logging):
        at = f"spec.accessLogging[{index}]"
        yield from _of_mode(f"{at}.match.mode", entry.match.mode)
        yield from _of_providers(
            at, entry.providers, providers, faults, use="access logs", find=lambda one: one.access_log
        )
    if spec.metrics:
        yield "spec.metrics has no effect: waypoints report the standard metrics as they are"
    if spec.tracing:
        yield "spec.tracing has no effect: waypoints send no spans"


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
