"""The mesh configuration of an installed mesh: its reported problems, and changes without a restart."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshapi import names
from tests.support.lab import eventually
from tests.support.mesh import SYSTEM, Mesh

pytestmark = pytest.mark.root

NS = "mesh-config"


@pytest.fixture
def before(mesh: Mesh) -> Iterator[str]:
    """The configuration of the installation, restored after the test."""
    held = mesh.configuration
    yield held
    mesh.configure(held)


def test_a_field_without_effect_is_reported_by_an_event_and_by_analyze(mesh: Mesh, before: str) -> None:
    mesh.configure(before + "proxyHttpPort: 15002\ntcpKeepalive: {tme: 60s}\nconnectTimeout: soon\n")

    def described() -> str:
        text = mesh.lab.kubectl("describe", "configmap", names.MESH_CONFIGMAP, "-n", SYSTEM)
        return text if text.count("MeshConfigField") >= 3 else ""

    text = eventually(described, "three events on the config map")
    for part in ("data.mesh.proxyHttpPort: has no effect", "did you mean time?", "data.mesh.connectTimeout"):
        assert part in text

    command = [str(Path(sys.executable).with_name("culvert")), "analyze", f"--kubeconfig={mesh.lab.kubeconfig}"]
    done = subprocess.run([*command, "-o", "json"], capture_output=True, text=True, check=False)
    found = {(one["code"], one["field"]) for one in json.loads(done.stdout) if one["kind"] == "ConfigMap"}
    assert found == {
        ("CUL0150", "data.mesh.connectTimeout"),
        ("CUL0151", "data.mesh.proxyHttpPort"),
        ("CUL0101", "data.mesh.tcpKeepalive.tme"),
    }


def test_a_format_of_the_access_log_reaches_ztunnels_that_run(mesh: Mesh, before: str) -> None:
    mesh.namespace(NS, enrolled=True)
    mesh.echo(NS, "server", "node1")
    mesh.client(NS, "client", "node2")
    eventually(lambda: mesh.request(NS, "client", "server").endswith("hello"), "the server is reached")
    form = {"flags": "%RESPONSE_FLAGS%", "peer": "%DOWNSTREAM_PEER_URI_SAN%", "bytes": "%BYTES_RECEIVED%"}
    mesh.configure(before + f"accessLogEncoding: JSON\naccessLogFormat: '{json.dumps(form)}'\n")

    def written() -> bool:
        assert mesh.request(NS, "client", "server").endswith("hello")
        lines = [line for line in mesh.ztunnel_log(since_s=60).splitlines() if '"peer":"spiffe://' in line]
        return any(f"/ns/{NS}/" in json.loads(line[line.index("{") :])["peer"] for line in lines)

    eventually(written, "a line of the new form")
