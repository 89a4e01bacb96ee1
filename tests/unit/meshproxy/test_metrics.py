"""The engine's metrics in the exposition format."""

from envoy.service.discovery.v3 import discovery_pb2
from prometheus_client import generate_latest

from meshapi.proto import engine_pb2
from meshkit import metrics
from meshkit.xds.counts import End, StreamCounts
from meshproxy import metrics as sources
from ztunnel import telemetry

FAMILIES = engine_pb2.MetricFamilies(
    families=[
        {"name": "tries", "label_names": ["why"], "samples": [{"label_values": ["silence"], "value": 3}]},
        {"name": "out", "kind": "GAUGE", "samples": [{"value": 2}]},
        {
            "name": "took", "kind": "HISTOGRAM", "bounds": [0.5, 1],
            "samples": [{"value": 6, "buckets": [1, 2, 3], "sum": 9.5}],
        },
    ]
)  # fmt: skip


def test_counters_gauges_and_histograms_of_the_engine_are_exposed() -> None:
    registry = metrics.registry("ztunnel", sources.engine(FAMILIES.SerializeToString))
    lines = generate_latest(registry).decode().splitlines()
    assert 'tries_total{why="silence"} 3.0' in lines
    assert "out 2.0" in lines
    assert [line for line in lines if line.startswith("took")] == [
        'took_bucket{le="0.5"} 1.0',
        'took_bucket{le="1.0"} 3.0',
        'took_bucket{le="+Inf"} 6.0',
        "took_count 6.0",
        "took_sum 9.5",
    ]


def test_the_stream_from_the_control_plane_is_counted_from_zero() -> None:
    counts = StreamCounts(["a.Type"])
    own = telemetry.source(active=lambda: 3, pending=lambda: 1, connections=lambda: 2, crashes=4)
    registry = metrics.registry("ztunnel", sources.discovery(counts), own)
    first = generate_latest(registry).decode().splitlines()
    assert 'istio_xds_message_total{url="a.Type"} 0.0' in first
    assert "culvert_open_connections 2.0" in first
    assert "workload_manager_active_proxy_count 3.0" in first
    assert "workload_manager_pending_proxy_count 1.0" in first
    assert "culvert_ztunnel_crashes_total 4.0" in first
    for reason in ("ConnectionError", "Error", "Reconnect", "Complete"):
        assert f'istio_xds_connection_terminations_total{{reason="{reason}"}} 0.0' in first
    response = discovery_pb2.DeltaDiscoveryResponse(type_url="a.Type")
    response.resources.add().resource.value = b"four"
    counts.received(response)
    counts.ends[End.COMPLETE] += 1
    lines = generate_latest(registry).decode().splitlines()
    assert 'istio_xds_message_total{url="a.Type"} 1.0' in lines
    assert 'istio_xds_message_bytes_total{url="a.Type"} 4.0' in lines
    assert 'istio_xds_connection_terminations_total{reason="Complete"} 1.0' in lines
