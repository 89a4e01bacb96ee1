"""Hosts of ServiceEntries without addresses: given some by the control plane, reached by name from captured pods."""

import json
from typing import Any

import pytest

from meshapi import names
from tests.support.lab import eventually
from tests.support.mesh import Mesh

pytestmark = pytest.mark.root

NS = "addresses"


@pytest.fixture(scope="module")
def app(mesh: Mesh) -> Mesh:
    mesh.namespace(NS, enrolled=True)
    mesh.echo(NS, "server", "node1")
    mesh.client(NS, "client", "node2")
    template = {"metadata": {"annotations": {names.DNS_CAPTURE_ANNOTATION: "true"}}}
    mesh.lab.kubectl("patch", "deploy/client", "-n", NS, "-p", json.dumps({"spec": {"template": template}}))
    mesh.lab.rolled_out("client", namespace=NS)
    eventually(lambda: mesh.captured(NS, "client"), "the client is captured")
    return mesh


def apply(app: Mesh, name: str, host: str, endpoint: str, resolution: str) -> None:
    spec = {
        "hosts": [host],
        "resolution": resolution,
        "ports": [{"number": 9000, "name": "tcp", "protocol": "TCP"}],
        "endpoints": [{"address": endpoint}],
    }
    kind = {"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "metadata": {"name": name}}
    app.lab.apply(json.dumps({**kind, "spec": spec}), namespace=NS)


def given(app: Mesh, name: str) -> list[str]:
    entry: dict[str, Any] = app.lab.resource("serviceentry", "-n", NS, name)
    return [item["value"] for item in (entry.get("status") or {}).get("addresses", [])]


@pytest.mark.parametrize("resolution", ["STATIC", "DNS"])
def test_a_host_without_address_is_reached_by_name(app: Mesh, resolution: str) -> None:
    """The name exists nowhere else: neither its address nor its endpoint could come from the cluster's DNS."""
    server = app.pod(NS, "server")["status"]["podIP"]
    endpoint = server if resolution == "STATIC" else f"server.{NS}.svc.cluster.local"
    name, host = f"api-{resolution.lower()}", f"api-{resolution.lower()}.example.test"
    assert app.request(NS, "client", host) == "<gaierror>"
    apply(app, name, host, endpoint, resolution)
    eventually(lambda: len(given(app, name)) == 2, "an address of each family")
    v4, v6 = given(app, name)
    assert v4.startswith("240.240.")
    assert v6.startswith("2001:2:")
    eventually(lambda: app.request(NS, "client", host).endswith("hello"), f"{host} is reached")
    assert app.lab.run("client", "getent", "ahostsv4", host, namespace=NS).split()[0] == v4
