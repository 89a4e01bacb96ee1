"""Another process flushes the rules of a captured pod under load: none of the pod's data is seen on the wire."""

import json
import os
import subprocess
import time
from collections.abc import Iterator

import pytest

from meshkit.linux import netns
from nodeagent.discovery import namespaces
from tests.support.lab import eventually, install
from tests.support.mesh import SYSTEM, Mesh
from tests.support.wire import Wire, captured

pytestmark = pytest.mark.root

NS = "flush"
SECONDS = 5.0
FLUSHES = 5
BETWEEN_PODS = "tcp and src net 10.244.0.0/16 and dst net 10.244.0.0/16"
AGENT = "ds/istio-cni-node"
STRICT = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default}
spec: {mtls: {mode: STRICT}}
"""


@pytest.fixture(scope="module")
def app(mesh: Mesh) -> Iterator[Mesh]:
    """The mesh with rules in its pods; hooks of BPF, which nobody flushes by accident, are put back after the tests."""
    install(mesh.lab, backend="nftables")
    mesh.ready()
    mesh.namespace(NS, enrolled=True)
    mesh.echo(NS, "server", "node1")
    mesh.client(NS, "client", "node2")
    mesh.lab.apply(STRICT, namespace=NS)
    for name in ("server", "client"):
        eventually(lambda name=name: mesh.captured(NS, name), f"{name} is captured")
    eventually(lambda: mesh.request(NS, "client", "server").endswith("hello"), "the server is reached")
    yield mesh
    install(mesh.lab)
    mesh.ready()


@pytest.fixture
def space(app: Mesh) -> Iterator[int]:
    uid = app.pod(NS, "client")["metadata"]["uid"]
    descriptor = namespaces.find({uid})[uid]
    yield descriptor
    os.close(descriptor)


def captures(space: int) -> bool:
    """Whether new connections are redirected."""
    rules = netns.run(
        space, lambda: subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
    )
    return "redirect to :15001" in rules


def flush(space: int) -> None:
    netns.run(space, lambda: subprocess.run(["nft", "flush", "ruleset"], check=True))


def plain(wire: Wire) -> int:
    """Number of packets with the application's data in plain text."""
    return wire.packets("hello|still here")


def test_no_plain_text_leaves_while_the_rules_are_restored(app: Mesh, space: int) -> None:
    lengths = []
    with captured(app.node_link("node1"), BETWEEN_PODS) as wire:
        load = app.load(NS, "client", "server", SECONDS)
        for _ in range(FLUSHES):
            repaired = app.repairs("node2")
            began = time.monotonic()
            flush(space)
            while not captures(space):
                assert time.monotonic() < began + 1, "the rules are back within a second"
            lengths.append(time.monotonic() - began)
            eventually(lambda repaired=repaired: app.repairs("node2") > repaired, "the repair is counted")
        report = load.report()
    gone = ", ".join(f"{length * 1000:.0f} ms" for length in lengths)
    print(f"rules were gone for {gone}; load: {report}")
    assert plain(wire[0]) == 0
    assert report.hanging == 0
    assert report.failures == [], "packets lost at a flush were sent again"
    eventually(lambda: app.request(NS, "client", "server").endswith("hello"), "connections work")


def test_no_plain_text_leaves_while_no_node_agent_restores_the_rules(app: Mesh, space: int) -> None:
    """The rules are flushed while no node agent runs: connections wait until it is back."""
    away = {"spec": {"template": {"spec": {"nodeSelector": {"culvert.test/nowhere": "true"}}}}}
    back = {"spec": {"template": {"spec": {"nodeSelector": None}}}}
    agents = ("-n", SYSTEM, "-l", "k8s-app=istio-cni-node")
    with captured(app.node_link("node1"), BETWEEN_PODS) as wire:
        app.lab.kubectl("patch", AGENT, "-n", SYSTEM, "-p", json.dumps(away))
        try:
            eventually(lambda: app.lab.resource("pods", *agents)["items"] == [], "no node agent", within_s=60)
            load = app.load(NS, "client", "server", SECONDS)
            time.sleep(1)
            flush(space)
            report = load.report(within_s=SECONDS + 60)
            assert not captures(space)
            assert app.request(NS, "client", "server") == "<TimeoutError>"
        finally:
            app.lab.kubectl("patch", AGENT, "-n", SYSTEM, "-p", json.dumps(back))
        app.ready()
        eventually(lambda: app.request(NS, "client", "server").endswith("hello"), "connections work", within_s=60)
    assert report.peers, "connections worked before"
    assert plain(wire[0]) == 0
