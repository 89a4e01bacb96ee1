"""ztunnel's own pods as workloads of the mesh: a label in the chart, and their metrics come over mutual TLS."""

import json
import subprocess
import uuid
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from meshapi import names
from tests.support.lab import eventually, install
from tests.support.mesh import SYSTEM, Mesh

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

NS = f"scraping-{uuid.uuid4().hex[:6]}"
CLIENT = f"spiffe://cluster.local/ns/{NS}/sa/client"
LABEL = r"ztunnel.podLabels.networking\.istio\.io/tunnel=http"
IDENTITY = f"spiffe://cluster.local/ns/{SYSTEM}/sa/ztunnel"


def upgrade(mesh: Mesh, *options: str) -> None:
    install(mesh.lab, *options)
    mesh.ready(120)


@pytest.fixture(scope="module")
def labelled(mesh: Mesh) -> Iterator[Mesh]:
    mesh.namespace(NS, enrolled=True)
    mesh.client(NS, "client", "node2")
    eventually(lambda: mesh.captured(NS, "client"), "the client is captured")
    upgrade(mesh, "--set", LABEL)
    yield mesh
    mesh.lab.kubectl("delete", "namespace", NS, "--wait=false")
    upgrade(mesh)


def ztunnels(mesh: Mesh) -> list[dict[str, Any]]:
    """Return the pods that are not terminating."""
    pods = mesh.lab.resource("pods", "-n", SYSTEM, "-l", f"app={names.ZTUNNEL_SERVICE_ACCOUNT}")["items"]
    return [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]


def scrape(mesh: Mesh, ip: str) -> str:
    """The metrics page, or the error's name in angle brackets."""
    code = (
        "import urllib.request\n"
        f"try: print(urllib.request.urlopen('http://{ip}:{names.METRICS_PORT}/metrics', timeout=5).read().decode())\n"
        "except OSError as error: print(f'<{type(error).__name__}>')\n"
    )
    command = mesh.command(NS, "client", "python3", "-c", code)
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def test_metrics_of_every_ztunnel_are_scraped_over_mutual_tls_and_policy_holds(labelled: Mesh) -> None:
    pods = ztunnels(labelled)
    assert {pod["metadata"]["labels"][names.TUNNEL_LABEL] for pod in pods} == {names.TUNNEL_LABEL_HTTP}
    addresses = [pod["status"]["podIP"] for pod in pods]
    assert len(addresses) == 2

    def seen(ip: str) -> list[str]:
        """Series of connections of the client to the ztunnel itself, as that has counted them."""
        wanted = ('reporter="destination"', f'source_principal="{CLIENT}"', f'destination_principal="{IDENTITY}"')
        lines = scrape(labelled, ip).splitlines()
        opened = (line for line in lines if line.startswith("istio_tcp_connections_opened_total{"))
        return [line for line in opened if all(label in line for label in wanted)]

    def is_refused(ip: str) -> bool:
        return scrape(labelled, ip).startswith("<")

    for ip in addresses:
        [line] = eventually(partial(seen, ip), f"{ip} is scraped over mutual TLS", within_s=30)
        for label in ('destination_workload="ztunnel"', 'connection_security_policy="mutual_tls"'):
            assert label in line
    policy = {
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": "no-scraping"},
        "spec": {
            "selector": {"matchLabels": {"app": names.ZTUNNEL_SERVICE_ACCOUNT}}, "action": "DENY",
            "rules": [{"from": [{"source": {"namespaces": [NS]}}], "to": [{"operation": {"ports": ["15020"]}}]}],
        },
    }  # fmt: skip
    labelled.lab.apply(json.dumps(policy), namespace=SYSTEM)
    try:
        for ip in addresses:
            eventually(partial(is_refused, ip), f"{ip} refuses the client")
        labelled.logged(CLIENT, 'dst.workload="ztunnel', "policy rejection")
    finally:
        labelled.lab.kubectl("delete", "authorizationpolicy", "no-scraping", "-n", SYSTEM)
    for ip in addresses:
        eventually(partial(seen, ip), f"{ip} is scraped again")
