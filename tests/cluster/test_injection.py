"""A Deployment as Istio's documents write gateways: its pods have the image ``auto``, and become gateways."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.lab import ROOT, eventually
from tests.support.mesh import Mesh

pytestmark = pytest.mark.root

NS = "injected"
GATEWAY = """
apiVersion: v1
kind: Service
metadata: {name: own-ingress}
spec:
  selector: {istio: own-ingress}
  ports: [{name: http2, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: own-ingress}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: own-ingress}
spec:
  selector: {matchLabels: {istio: own-ingress}}
  template:
    metadata:
      annotations: {inject.istio.io/templates: gateway}
      labels: {istio: own-ingress, sidecar.istio.io/inject: "true"}
    spec:
      serviceAccountName: own-ingress
      terminationGracePeriodSeconds: 2
      containers: [{name: istio-proxy, image: auto}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: own}
spec:
  selector: {istio: own-ingress}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [httpbin.example.com]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: own}
spec:
  hosts: [httpbin.example.com]
  gateways: [own]
  http: [{route: [{destination: {host: httpbin, port: {number: 8000}}}]}]
"""
STATUS = ("curl", "-s", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", "-H", "Host: httpbin.example.com")


@pytest.fixture(scope="module")
def injected(mesh: Mesh) -> Iterator[Mesh]:
    mesh.namespace(NS, enrolled=True)
    mesh.lab.apply(*(ROOT / "samples" / name for name in ("httpbin/httpbin.yaml", "curl/curl.yaml")), namespace=NS)
    mesh.lab.rolled_out("httpbin", "curl", namespace=NS)
    yield mesh
    mesh.lab.kubectl("delete", "namespace", NS, "--wait=false")


def test_the_pods_serve_the_gateway(injected: Mesh) -> None:
    injected.lab.apply(GATEWAY, namespace=NS)
    injected.lab.rolled_out("own-ingress", namespace=NS)
    injected.in_force("virtualservice", "own", NS)

    def status(path: str) -> str:
        return injected.lab.run("curl", *STATUS, f"http://own-ingress{path}", namespace=NS)

    eventually(lambda: status("/status/200") == "200", "the gateway leads to httpbin")
    assert status("/status/418") == "418"


def test_a_pod_that_asks_for_a_sidecar_starts_without_and_its_user_is_told(injected: Mesh) -> None:
    container = {"name": "main", "image": "localhost/culvert/samples:1", "command": ["sleep", "infinity"]}
    pod = {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "asks", "labels": {"app": "asks", "sidecar.istio.io/inject": "true"}},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 1},
    }  # fmt: skip
    program = shutil.which("kubectl") or str(Path(sys.executable).with_name("kubectl"))
    command = [program, f"--kubeconfig={injected.lab.kubeconfig}"]
    applied = subprocess.run(
        [*command, "apply", "-n", NS, "-f", "-"],
        input=json.dumps(pod), text=True, capture_output=True, check=True, timeout=30,
    )  # fmt: skip
    assert "Culvert has no sidecars" in applied.stderr
    found = injected.lab.resource("pod", "asks", "-n", NS)
    assert [one["name"] for one in found["spec"]["containers"]] == ["main"]
