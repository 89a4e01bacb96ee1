"""Metrics of a proxy process as sources of ``meshkit.metrics``: the engine's, and what the process itself counts."""

from collections.abc import Callable
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from meshapi.proto import engine_pb2
from meshkit import metrics
from meshkit.xds.counts import StreamCounts
from meshproxy.otlp.exporter import Counts, Reason


def engine(families: Callable[[], bytes]) -> metrics.Source:
    """Return the engine's own metrics; ``families`` is ``Engine.metrics``."""
    return lambda: [_metric(family) for family in engine_pb2.MetricFamilies.FromString(families()).families]


def discovery(counts: StreamCounts) -> metrics.Source:
    """Return the metrics of the stream from the control plane, in the names of Istio's ztunnel."""
    return lambda: [
        metrics.counter("istio_xds_message", "Responses from the control plane, by type", counts.messages, "url"),
        metrics.counter("istio_xds_message_bytes", "Bytes of resources in them, by type", counts.message_bytes, "url"),
        metrics.counter(
            "istio_xds_connection_terminations", "Ends of streams to the control plane", counts.ends, "reason"
        ),
    ]


def exported(counts: Counts) -> metrics.Source:
    """Return what became of the records of the access log that go to an OpenTelemetry collector."""
    return lambda: [
        metrics.counter(
            "culvert_otlp_log_records_exported",
            "Records of the access log that the OpenTelemetry collector has taken",
            counts.exported,
        ),
        metrics.counter(
            "culvert_otlp_log_records_dropped",
            "Records of the access log that no OpenTelemetry collector got",
            {reason: counts.dropped[reason] for reason in Reason},
            "reason",
        ),
    ]


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
