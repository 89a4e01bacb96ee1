"""Somebody flushes the rules of a captured pod under load: how long and how much plain text there is on the wire."""

import os
import re
import subprocess
import time
from collections.abc import Iterator

import pytest

from meshkit.linux import netns
from nodeagent.discovery import namespaces
from tests.support.lab import eventually
from tests.support.mesh import Mesh
from tests.support.wire import Wire, captured

pytestmark = pytest.mark.root

NS = "flush"
SECONDS = 5.0
FLUSHES = 5
LAG_S = 0.1
"""Between the rules' return and the last packet that was under way: connections that began before them go on."""
STRICT = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default}
spec: {mtls: {mode: STRICT}}
"""


@pytest.fixture(scope="module")
def app(mesh: Mesh) -> Mesh:
    mesh.namespace(NS, enrolled=True)
    mesh.echo(NS, "server", "node1")
    mesh.client(NS, "client", "node2")
    mesh.lab.apply(STRICT, namespace=NS)
    for name in ("server", "client"):
        eventually(lambda name=name: mesh.captured(NS, name), f"{name} is captured")
    eventually(lambda: mesh.ask(NS, "client", "server").endswith("hello"), "the server is reached")
    return mesh


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


def plain(wire: Wire) -> list[float]:
    """Times of the packets that show what the application said."""
    found, now = [], 0.0
    for line in wire.text.splitlines():
        if head := re.match(r"(\d+\.\d+) IP", line):
            now = float(head.group(1))
        elif re.search("hello|still here", line):
            found.append(now)
    return found


def test_plain_text_is_on_the_wire_only_until_the_rules_are_back(app: Mesh, space: int) -> None:
    """Under STRICT the server refuses it, but what a client has sent cannot be taken back."""
    windows = []
    with captured(app.node_link("node1"), "tcp and src net 10.244.0.0/16 and dst net 10.244.0.0/16") as wire:
        load = app.load(NS, "client", "server", SECONDS)
        for _ in range(FLUSHES):
            repaired = app.repairs("node2")
            began = time.time()
            netns.run(space, lambda: subprocess.run(["nft", "flush", "ruleset"], check=True))
            while not captures(space):
                assert time.time() < began + 1, "the rules are back within a second"
            windows.append((began, time.time()))
            eventually(lambda repaired=repaired: app.repairs("node2") > repaired, "the repair is counted")
        report = load.report()
    seen = plain(wire[0])
    lengths = ", ".join(f"{(end - began) * 1000:.0f} ms" for began, end in windows)
    print(f"rules were gone for {lengths}; {len(seen)} packets of plain text; load: {report}")
    outside = [at for at in seen if not any(began <= at <= end + LAG_S for began, end in windows)]
    assert outside == []
    assert report.hanging == 0
    eventually(lambda: app.ask(NS, "client", "server").endswith("hello"), "connections work")
