"""The metrics of the mesh as scraped by a Prometheus without configuration for it."""

import json
import subprocess
import sys
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.lab import ROOT, eventually
from tests.support.mesh import SYSTEM, Mesh

# The first run builds Prometheus.
pytestmark = [pytest.mark.root, pytest.mark.timeout(1200)]

NS = f"measured-{uuid.uuid4().hex[:6]}"
"""Never seen before: a lab that is kept has counters of earlier runs."""
CLIENT, SERVER = (f"spiffe://cluster.local/ns/{NS}/sa/{name}" for name in ("client", "server"))
CONNECTIONS = 25
BOARDS: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "istio_boards.yaml").read_text())


class Prometheus:
    """Its HTTP API."""

    def __init__(self, url: str) -> None:
        self._url = url

    def get(self, path: str, **parameters: str) -> Any:
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self._url}/api/v1/{path}?{query}", timeout=10) as answer:
            return json.load(answer)["data"]

    def series(self, expression: str) -> list[tuple[dict[str, str], float]]:
        found = self.get("query", query=expression)
        assert found["resultType"] == "vector"
        return [(one["metric"], float(one["value"][1])) for one in found["result"]]

    def value(self, expression: str) -> float:
        """The sum of an expression; 0 where there is nothing."""
        return sum(value for _, value in self.series(expression))

    def targets(self) -> dict[str, str]:
        """Health by URL."""
        return {one["scrapeUrl"]: one["health"] for one in self.get("targets", state="active")["activeTargets"]}


@pytest.fixture(scope="module")
def prometheus(mesh: Mesh) -> Iterator[Prometheus]:
    command = [sys.executable, "-m", "meshctl", "lab", "addon", "prometheus", f"--name={mesh.lab.name}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "in the lab: http://prometheus.monitoring:9090" in done.stderr
    yield Prometheus(done.stdout.strip())
    mesh.lab.kubectl("delete", "namespace", "monitoring", "--wait=false")


def destination_rule(host: str) -> dict[str, Any]:
    kind = {"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule"}
    return {**kind, "metadata": {"name": "server"}, "spec": {"host": host}}


@pytest.fixture(scope="module")
def traffic(mesh: Mesh, prometheus: Prometheus) -> Iterator[Mesh]:
    """Connections, all but the first of them opened after Prometheus has scraped the first; a good and a bad object."""
    mesh.namespace(NS, enrolled=True)
    mesh.echo(NS, "server", "node1", probe=False)
    mesh.client(NS, "client", "node2")
    eventually(lambda: mesh.captured(NS, "client") and mesh.captured(NS, "server"), "both are captured")
    assert mesh.request(NS, "client", "server").endswith("hello")
    seen = f'istio_tcp_connections_opened_total{{source_principal="{CLIENT}"}}'
    eventually(lambda: len(prometheus.series(seen)) == 2, "the first connection is known", within_s=60)
    mesh.lab.apply(json.dumps(destination_rule("server")), namespace=NS)
    with pytest.raises(AssertionError, match=r"spec\.host"):
        mesh.lab.apply(json.dumps(destination_rule("")), namespace=NS)
    for _ in range(CONNECTIONS - 1):
        assert mesh.request(NS, "client", "server").endswith("hello")
    yield mesh
    mesh.lab.kubectl("delete", "namespace", NS, "--wait=false")


def test_every_part_of_the_mesh_is_a_target_and_up(traffic: Mesh, prometheus: Prometheus) -> None:
    pods = traffic.lab.resource("pods", "-n", SYSTEM)["items"]
    # An old ztunnel may carry connections of other tests to their end.
    pods = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    expected = {
        f"http://{pod['status']['podIP']}:{pod['metadata']['annotations']['prometheus.io/port']}/metrics"
        for pod in pods
    }
    assert len(expected) == len(pods) == 5, "control plane, and node agent and ztunnel on two nodes"
    eventually(lambda: expected <= prometheus.targets().keys(), "all pods are targets", within_s=60)
    eventually(lambda: set(prometheus.targets().values()) == {"up"}, f"all are up: {prometheus.targets()}", within_s=60)


@pytest.mark.parametrize("reporter", ["source", "destination"])
def test_connections_are_counted_by_both_ends_with_principals(
    traffic: Mesh, prometheus: Prometheus, reporter: str
) -> None:
    expression = f'istio_tcp_connections_opened_total{{reporter="{reporter}",source_workload_namespace="{NS}"}}'
    eventually(lambda: prometheus.value(expression) >= CONNECTIONS, "all connections are counted", within_s=60)
    [(labels, value)] = prometheus.series(expression)
    assert value == CONNECTIONS
    assert (labels["source_principal"], labels["destination_principal"]) == (CLIENT, SERVER)
    assert labels["connection_security_policy"] == "mutual_tls"
    assert labels["response_flags"] == "-"
    assert labels["destination_service"] == f"server.{NS}.svc.cluster.local"
    assert (labels["source_app"], labels["destination_app"]) == ("client", "server")
    assert labels["app"] == "ztunnel"


@pytest.mark.parametrize("query", BOARDS, ids=lambda query: f"{query['board']}: {query['metric']}")
def test_istios_boards_find_their_series(traffic: Mesh, prometheus: Prometheus, query: dict[str, Any]) -> None:
    """A label of an edge that is missing in one series hides the whole edge: each must have a value in all of them."""
    grouped = query.get("by", [])
    named = {"source_workload_namespace": NS} if "source_principal" in grouped else {}
    selected = ",".join(
        f'{label}=~"{value[1:]}"' if value.startswith("~") else f'{label}="{value}"'
        for label, value in {**query.get("match", {}), **named}.items()
    )
    expression = f"sum({query['metric']}{{{selected}}}) by ({','.join(grouped)})"
    if "absent" in query:
        assert prometheus.series(expression) == [], f"it can be had now: {query['absent']}"
        return
    eventually(lambda: prometheus.series(expression) != [], expression, within_s=60)
    for labels, _ in prometheus.series(expression):
        assert {label for label in grouped if not labels.get(label)} == set(), expression


def test_a_graph_of_workloads_can_be_drawn(traffic: Mesh, prometheus: Prometheus) -> None:
    """In the form of Kiali's queries: rates, grouped by the ends of an edge."""
    ends = "source_workload_namespace,source_workload,destination_service_name,destination_workload"
    for metric in ("istio_tcp_sent_bytes_total", "istio_tcp_received_bytes_total"):
        for reporter in ("source", "destination"):
            rate = f'rate({metric}{{reporter="{reporter}",destination_workload_namespace="{NS}"}}[5m])'
            expression = f"sum({rate}) by ({ends}) > 0"
            eventually(lambda expression=expression: prometheus.series(expression) != [], expression, within_s=60)
            [(labels, _)] = prometheus.series(expression)
            assert labels == {
                "source_workload_namespace": NS,
                "source_workload": "client",
                "destination_service_name": "server",
                "destination_workload": "server",
            }


def test_the_control_plane_exports_metrics_of_pushes_and_certificates(traffic: Mesh, prometheus: Prometheus) -> None:
    eventually(lambda: prometheus.value("pilot_xds") >= 2, "two ztunnels are connected", within_s=60)
    for expression in (
        "pilot_xds_pushes",
        "pilot_proxy_convergence_time_count",
        "citadel_server_success_cert_issuance_count",
        'ztunnel_connected{app="istio-cni-node"}',
        'istio_build{component="pilot"}',
        'istio_build{component="ztunnel"}',
    ):
        assert prometheus.value(expression) > 0, expression
