"""What is wrong with a Telemetry, for its condition. Pure."""

from collections.abc import Iterator

from controlplane.envoy.layer7 import Layer7
from controlplane.graph.derived import Fetch
from controlplane.routing.telemetry import collectors, problems
from meshapi.mesh_config.log_providers import Collector
from meshapi.resources.telemetry import Telemetry


def problems_of(layer7: Layer7, item: Telemetry, fetch: Fetch) -> Iterator[str]:
    """Yield what of a Telemetry has no effect, and why."""

    def fault(collector: Collector) -> str | None:
        return collectors.fault(collector, layer7.routing.service(collector.host, fetch))

    telemetries = layer7.telemetries
    rival = telemetries.rival(item, fetch)
    if rival is not None:
        yield f"{'/'.join(rival)} is older and counts for the namespace instead; merge the two, or name targetRefs"
    defaults = telemetries.config(fetch).default_providers
    yield from problems.of_missing_providers(item, telemetries.parents(item, fetch), defaults)
    is_in_force = bool(layer7.envoy.of_source("Telemetry", item.key, fetch))
    yield from problems.of_telemetry(item, telemetries.providers(fetch), fault, is_in_force=is_in_force)
