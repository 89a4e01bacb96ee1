"""Two pods of one node connect without the tunnel: installed by the chart, with policy, restarts and an end."""

import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from meshlab import images, lab, programs
from tests.support import manifests
from tests.support.lab import ROOT, eventually, install, running
from tests.support.mesh import SYSTEM, Mesh

pytestmark = pytest.mark.root

NS = "near"


@pytest.fixture(scope="module")
def near() -> Iterator[Mesh]:
    """A lab of its own: the setting is the installation's."""
    with running("direct", nodes=2, extra=[images.samples]) as found:
        install(found, "--set", "directConnections.enabled=true", backend="ebpf")
        mesh = Mesh(found)
        mesh.ready()
        mesh.namespace(NS, enrolled=True)
        mesh.echo(NS, "server", "node1", probe=False)
        mesh.client(NS, "client", "node1")
        mesh.client(NS, "far", "node2")
        for name in ("server", "client", "far"):
            eventually(lambda name=name: mesh.captured(NS, name), f"{name} is captured")
        eventually(lambda: mesh.request(NS, "client", "server").endswith("hello"), "the server is reached")
        yield mesh


def direct(mesh: Mesh) -> float:
    """Direct connections of the node of both pods, as its ztunnel counts them."""
    [pod] = [
        one["metadata"]["name"]
        for one in mesh.lab.resource("pods", "-n", SYSTEM, "-l", "app=ztunnel")["items"]
        if one["spec"]["nodeName"] == "node1" and not one["metadata"].get("deletionTimestamp")
    ]
    page = f"/api/v1/namespaces/{SYSTEM}/pods/{pod}:15020/proxy/stats/prometheus"
    found = re.search(
        r'^culvert_direct_connections_total\{outcome="connected"\} (\S+)', mesh.lab.kubectl("get", "--raw", page), re.M
    )
    return float(found[1]) if found else 0.0


def test_connections_after_the_first_are_direct_and_those_of_other_nodes_are_not(near: Mesh) -> None:
    eventually(lambda: near.request(NS, "client", "server") and direct(near) > 0, "a connection is direct")
    before = direct(near)
    assert [near.request(NS, "client", "server")[-5:] for _ in range(5)] == ["hello"] * 5
    assert direct(near) == before + 5
    assert near.request(NS, "far", "server").endswith("hello")
    assert direct(near) == before + 5


def test_explain_says_so(near: Mesh) -> None:
    pods = near.lab.resource("pods", "-n", NS)["items"]
    for caller, expected in (("client", "goes directly, within the node"), ("far", "goes through the tunnel")):
        [name] = [one["metadata"]["name"] for one in pods if one["metadata"]["labels"].get("app") == caller]
        assert expected in near.culvert("explain", f"{name}.{NS}", f"server.{NS}:9000").stdout


def test_a_policy_refuses_them_and_leaves_others(near: Mesh) -> None:
    denied = [{"from": [{"source": {"serviceAccounts": ["client"]}}]}]
    policy = manifests.item("AuthorizationPolicy", "security.istio.io/v1", "closed", action="DENY", rules=denied)
    near.lab.apply(policy, namespace=NS)
    eventually(lambda: not near.request(NS, "client", "server").endswith("hello"), "the client is refused")
    assert all(not near.request(NS, "client", "server").endswith("hello") for _ in range(3))
    assert near.request(NS, "far", "server").endswith("hello")
    near.lab.kubectl("delete", "authorizationpolicy", "-n", NS, "closed")
    eventually(lambda: near.request(NS, "client", "server").endswith("hello"), "the client is admitted again")


def test_restarts_of_ztunnel_and_node_agent_fail_no_connection(near: Mesh) -> None:
    load = near.load(NS, "client", "server", 12)
    for workload in ("ds/ztunnel", "ds/istio-cni-node"):
        near.lab.kubectl("rollout", "restart", "-n", SYSTEM, workload)
    near.ready()
    report = load.report()
    assert report.new_ok > 100, report
    assert not report.failures and not report.hanging, report
    before = direct(near)
    eventually(lambda: near.request(NS, "client", "server") and direct(near) > before, "connections are direct again")


def test_an_uninstallation_leaves_no_program_behind(near: Mesh) -> None:
    helm = programs.helm(print) / "helm"
    command = [sys.executable, "-m", "meshctl", "uninstall", f"--helm={helm}", f"--kubeconfig={near.lab.kubeconfig}"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    left = lab.machine(near.lab.name, "node1").run(["sh", "-c", "find /sys/fs/bpf -name 'cv_*'"]).text
    assert left == ""
    assert near.request(NS, "client", "server").endswith("hello")
