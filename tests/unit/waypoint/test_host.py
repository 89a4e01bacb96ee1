"""What a waypoint's host computes: Envoy's bootstrap and node, what drain waits for, the text of a scrape."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from meshapi import names
from tests.support.envoy import program
from waypoint import bootstrap, drain, metrics, node
from waypoint.settings import WaypointSettings

OWN: dict[str, Any] = {
    "pod_name": "waypoint-7d4-x",
    "pod_namespace": "shop",
    "service_account": "waypoint",
    "instance_ip": "10.0.0.7,fd00::7",
}


def settings(**more: Any) -> WaypointSettings:
    return WaypointSettings.model_validate({**OWN, **more})


def test_the_node_is_what_istios_agent_writes() -> None:
    environment = {"ISTIO_META_WORKLOAD_NAME": "waypoint", "ISTIO_METAJSON_X": '{"A": {"b": 1}}', "HOME": "/"}
    labels = {names.GATEWAY_NAME_LABEL: "waypoint", "pod-template-hash": "7d4"}
    made = node.of(settings(cluster_domain="c.example"), environment, labels, {"note": "x"})
    assert made.id == "waypoint~10.0.0.7~waypoint-7d4-x.shop~shop.svc.c.example"
    assert made.cluster == "waypoint.shop"
    metadata = dict(made.metadata)
    assert metadata.pop("ISTIO_VERSION")
    assert metadata == {
        "NAME": "waypoint-7d4-x",
        "NAMESPACE": "shop",
        "INSTANCE_IPS": "10.0.0.7,fd00::7",
        "SERVICE_ACCOUNT": "waypoint",
        "CLUSTER_ID": "Kubernetes",
        "WORKLOAD_NAME": "waypoint",
        "A": {"b": 1},
        "LABELS": {names.GATEWAY_NAME_LABEL: "waypoint"},
        "ANNOTATIONS": {"note": "x"},
        "ENVOY_PROMETHEUS_PORT": 15090,
        "ENVOY_STATUS_PORT": 15021,
    }


def test_projected_labels_are_unquoted() -> None:
    assert node.projected('a="1"\nb="say \\"hi\\""\nc="x=y"\n') == {"a": "1", "b": 'say "hi"', "c": "x=y"}


def test_no_variable_overwrites_who_the_pod_is() -> None:
    made = node.of(settings(), {"ISTIO_META_NAMESPACE": "other", "ISTIO_METAJSON_X": '{"NAME": "other"}'}, {}, {})
    assert (made.metadata["NAMESPACE"], made.metadata["NAME"]) == ("shop", "waypoint-7d4-x")


def test_envoy_accepts_the_bootstrap(tmp_path: Path) -> None:
    document = bootstrap.render(node.of(settings(), {}, {}, {}), settings())
    assert document == bootstrap.render(node.of(settings(), {}, {}, {}), settings())
    file = tmp_path / "envoy.json"
    file.write_text(json.dumps(document))
    done = subprocess.run(
        [program(), "--mode", "validate", "-c", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "[warning]" not in done.stderr


@pytest.mark.parametrize(
    ("stats", "work"),
    [
        ({}, 0),
        ({"listener.admin.downstream_cx_active": 2, "http.admin.downstream_rq_active": 1}, 0),
        ({"listener.0.0.0.0_15090.downstream_cx_active": 1, "http.stats.downstream_cx_active": 1}, 0),
        ({"listener.a.downstream_cx_active": 3, "http.a.downstream_cx_active": 3}, 0),
        ({"listener.a.downstream_cx_active": 3, "http.a.downstream_cx_active": 3, "http.a.downstream_rq_active": 2}, 2),
        ({"listener.tcp.downstream_cx_active": 4, "listener.tcp.worker_0.downstream_cx_active": 4}, 4),
    ],
)
def test_drain_waits_for_streams_and_for_connections_that_are_not_http(stats: dict[str, int], work: int) -> None:
    assert drain.open_work(stats, 15090) == work


def test_istios_metrics_lose_envoys_prefix_and_nothing_else_does() -> None:
    text = b"# TYPE envoy_istio_requests_total counter\n"
    text += b'envoy_istio_requests_total{a="envoy_istio_x"} 1\nenvoy_server_live 1'
    found = metrics.merged(text, CollectorRegistry()).decode()
    assert found.splitlines() == [
        "# TYPE istio_requests_total counter",
        'istio_requests_total{a="envoy_istio_x"} 1',
        "envoy_server_live 1",
    ]
