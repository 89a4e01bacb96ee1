"""Metrics of this node's tunnel: the engine's counters, and what the host itself knows."""

from collections.abc import Callable, Iterable
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from meshapi.proto import engine_pb2


class EngineCounters(Collector):
    """Pulls the engine's counters at each scrape; nothing is kept here."""

    def __init__(self, families: Callable[[], bytes]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """Yield one family for each of the engine's."""
        for family in engine_pb2.MetricFamilies.FromString(self._families()).families:
            metric = CounterMetricFamily(family.name, family.help, labels=list(family.label_names))
            for sample in family.samples:
                metric.add_metric(list(sample.label_values), sample.value)
            yield metric


def registry(
    families: Callable[[], bytes], active: Callable[[], float], pending: Callable[[], float]
) -> CollectorRegistry:
    """Return the registry that port 15020 exposes."""
    made = CollectorRegistry()
    made.register(EngineCounters(families))
    ProcessCollector(registry=made)
    build = Gauge("istio_build", "Component and version", ["component", "tag"], registry=made)
    build.labels(component="ztunnel", tag=version("culvert")).set(1)
    serving = Gauge("workload_manager_active_proxy_count", "Workloads that are served", registry=made)
    serving.set_function(active)
    waiting = Gauge("workload_manager_pending_proxy_count", "Workloads whose listeners do not stand", registry=made)
    waiting.set_function(pending)
    return made
