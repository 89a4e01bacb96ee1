"""The engine's metrics in the exposition format."""

from prometheus_client import generate_latest

from meshapi import names
from meshapi.proto import engine_pb2
from meshkit.xds import client
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
    registry = telemetry.registry(FAMILIES.SerializeToString, lambda: 0, lambda: 0, lambda: 0)
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


def test_what_came_from_the_control_plane_is_counted_from_zero() -> None:
    counts = client.Counts.zero([names.ADDRESS_TYPE, names.AUTHORIZATION_TYPE])
    registry = telemetry.registry(lambda: b"", lambda: 0, lambda: 0, lambda: 2, received=counts)
    counts.messages[names.ADDRESS_TYPE] += 1
    counts.message_bytes[names.ADDRESS_TYPE] += 100
    lines = generate_latest(registry).decode().splitlines()
    for reason in ("ConnectionError", "Error", "Reconnect", "Complete"):
        assert f'istio_xds_connection_terminations_total{{reason="{reason}"}} 0.0' in lines
    assert f'istio_xds_message_total{{url="{names.ADDRESS_TYPE}"}} 1.0' in lines
    assert f'istio_xds_message_total{{url="{names.AUTHORIZATION_TYPE}"}} 0.0' in lines
    assert f'istio_xds_message_bytes_total{{url="{names.ADDRESS_TYPE}"}} 100.0' in lines
    assert "culvert_open_connections 2.0" in lines
