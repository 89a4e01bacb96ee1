"""``waypoints: AUTOMATIC`` on an installed mesh: a route is enough to be in force, and its end removes the waypoint."""

from collections.abc import Iterator

import pytest

from meshapi import names
from tests.support.lab import ROOT, eventually
from tests.support.mesh import SYSTEM, Mesh

pytestmark = pytest.mark.root

NS = "automatic"
ROUTE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: curl}
spec:
  hosts: [curl]
  http: [{directResponse: {status: 418}}]
"""


@pytest.fixture
def automatic(mesh: Mesh) -> Iterator[Mesh]:
    """The mesh with the setting, without retention; both are put back after the test."""
    held = mesh.configuration
    mesh.configure(f"{held}\nwaypoints: AUTOMATIC\n")
    retention = "AUTOMATIC_WAYPOINT_RETENTION_S"
    mesh.lab.kubectl("set", "env", "deploy/istiod", "-n", SYSTEM, f"{retention}=1")
    mesh.lab.rolled_out("istiod", namespace=SYSTEM)
    mesh.namespace(NS, enrolled=True)
    yield mesh
    mesh.configure(held)
    mesh.lab.kubectl("set", "env", "deploy/istiod", "-n", SYSTEM, f"{retention}-")
    mesh.lab.rolled_out("istiod", namespace=SYSTEM)
    mesh.lab.kubectl("delete", "namespace", NS, "--wait=false")


def _status(mesh: Mesh) -> str:
    command = ("curl", "-sS", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", "http://curl")
    return mesh.lab.run("curl", *command, namespace=NS, check=False)


def test_a_route_is_in_force_without_a_label_and_its_end_takes_the_waypoint_away(automatic: Mesh) -> None:
    mesh = automatic
    mesh.lab.apply(ROOT / "samples/curl/curl.yaml", namespace=NS)
    mesh.lab.rolled_out("curl", namespace=NS)
    eventually(lambda: mesh.captured(NS, "curl"), "the pod is captured")
    assert _status(mesh) != "418"
    mesh.lab.apply(ROUTE, namespace=NS)
    mesh.in_force("virtualservice", "curl", NS)
    assert _status(mesh) == "418", "what is distributed is in force"
    made = mesh.lab.resource("gtw", names.AUTOMATIC_WAYPOINT, "-n", NS)
    assert made["metadata"]["labels"][names.AUTOMATIC_WAYPOINT_LABEL] == "true"
    assert names.USE_WAYPOINT_LABEL not in mesh.lab.resource("service", "curl", "-n", NS)["metadata"].get("labels", {})
    assert names.USE_WAYPOINT_LABEL not in mesh.lab.resource("namespace", NS)["metadata"]["labels"]
    assert mesh.culvert("analyze", "-n", NS).returncode == 0

    mesh.lab.kubectl("delete", "virtualservice", "-n", NS, "curl")
    selector = f"{names.GATEWAY_NAME_LABEL}={names.AUTOMATIC_WAYPOINT}"
    left = ("get", "gtw,deployments,services,pods", "-n", NS, "-l", selector, "-o", "name")
    eventually(lambda: not mesh.lab.kubectl(*left).strip(), "all of the waypoint is gone", within_s=60)
    gateways = ("get", "gtw", "-n", NS, "-o", "name")
    assert not mesh.lab.kubectl(*gateways).strip()
