"""Metrics of this node's tunnel: the engine's, and what the host itself knows."""

from collections.abc import Callable, Iterable
from importlib.metadata import version
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from meshapi.proto import engine_pb2
from meshkit.xds.counts import StreamCounts
from meshproxy.otlp.exporter import Counts, Reason


class EngineMetrics(Collector):
    """Pulls the engine's metrics at each scrape; nothing is kept here."""

    def __init__(self, families: Callable[[], bytes]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """Yield one family for each of the engine's."""
        for family in engine_pb2.MetricFamilies.FromString(self._families()).families:
            yield _metric(family)


class OtlpMetrics(Collector):
    """What became of the log records that go to an OpenTelemetry collector."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def collect(self) -> Iterable[Metric]:
        """Yield two counters."""
        help_text = "Records of the access log that the OpenTelemetry collector has taken"
        yield CounterMetricFamily("culvert_otlp_log_records_exported", help_text, value=self._counts.exported)
        help_text = "Records of the access log that no OpenTelemetry collector got"
        dropped = CounterMetricFamily("culvert_otlp_log_records_dropped", help_text, labels=["reason"])
        for reason in Reason:
            dropped.add_metric([reason], self._counts.dropped[reason])
        yield dropped


class XdsMetrics(Collector):
    """The stream from the control plane, in the names of Istio's ztunnel."""

    def __init__(self, counts: StreamCounts) -> None:
        self._counts = counts

    def collect(self) -> Iterable[Metric]:
        """Yield three counters."""
        counts = self._counts
        for name, help_text, label, values in (
            ("istio_xds_message", "Responses from the control plane, by type", "url", counts.messages),
            ("istio_xds_message_bytes", "Bytes of resources in them, by type", "url", counts.message_bytes),
            ("istio_xds_connection_terminations", "Ends of streams to the control plane", "reason", counts.ends),
        ):
            family = CounterMetricFamily(name, help_text, labels=[label])
            for value, count in values.items():
                family.add_metric([value], count)
            yield family


def _metric(family: engine_pb2.MetricFamily) -> Metric:
    labels = list(family.label_names)
    if family.kind == engine_pb2.HISTOGRAM:
        histogram = HistogramMetricFamily(family.name, family.help, labels=labels)
        bounds = [*(str(bound) for bound in family.bounds), "+Inf"]
        for sample in family.samples:
            buckets = zip(bounds, accumulate(sample.buckets), strict=True)
            histogram.add_metric(list(sample.label_values), buckets=list(buckets), sum_value=sample.sum)
        return histogram
    kind = GaugeMetricFamily if family.kind == engine_pb2.GAUGE else CounterMetricFamily
    metric = kind(family.name, family.help, labels=labels)
    for sample in family.samples:
        metric.add_metric(list(sample.label_values), sample.value)
    return metric


def registry(
    families: Callable[[], bytes],
    active: Callable[[], float],
    pending: Callable[[], float],
    connections: Callable[[], float],
    *,
    crashes: int = 0,
    discovery: StreamCounts | None = None,
    exported: Counts | None = None,
) -> CollectorRegistry:
    """Return the registry that port 15020 exposes.

    Args:
        families: the engine's metrics.
        active: number of workloads that are served.
        pending: number of workloads whose listeners are not open.
        connections: number of open connections.
        crashes: how often the process was started again within its container.
        discovery: the stream from the control plane.
        exported: what became of exported log records, where there is an exporter.
    """
    made = CollectorRegistry()
    made.register(EngineMetrics(families))
    if discovery is not None:
        made.register(XdsMetrics(discovery))
    if exported is not None:
        made.register(OtlpMetrics(exported))
    ProcessCollector(registry=made)
    build = Gauge("istio_build", "Component and version", ["component", "tag"], registry=made)
    build.labels(component="ztunnel", tag=version("culvert")).set(1)
    serving = Gauge("workload_manager_active_proxy_count", "Workloads that are served", registry=made)
    serving.set_function(active)
    waiting = Gauge("workload_manager_pending_proxy_count", "Workloads whose listeners are not open", registry=made)
    waiting.set_function(pending)
    opened = Gauge("culvert_open_connections", "Open connections of captured pods", registry=made)
    opened.set_function(connections)
    crashed = Counter("culvert_ztunnel_crashes", "Times that ztunnel was started again in its container", registry=made)
    crashed.inc(crashes)
    return made
