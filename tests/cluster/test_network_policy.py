"""Capture under Kubernetes NetworkPolicies, enforced by kube-router: policies keep their effect.

A network plugin sees port 15008 between enrolled pods, as Istio documents; the application's port is the mesh's matter.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from meshlab import lab as labs
from tests.support.lab import ROOT, eventually
from tests.support.mesh import Mesh

# The first run builds kube-router.
pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]

NS, OUTSIDE, ELSEWHERE = "restricted", "unrestricted", "elsewhere"
SERVERS = {"same node": "near", "across": "far"}
REFUSED = ("<ConnectionResetError>", "<TimeoutError>", "<ConnectionRefusedError>", "<ended>")
CLEAN = (
    "for tables in iptables ip6tables; do $tables-save -t filter | grep -vE 'KUBE-(ROUTER|POD-FW|NWPLCY)' "
    "| $tables-restore -T filter; done; ipset flush; ipset destroy"
)


@pytest.fixture(scope="module")
def scene(mesh: Mesh) -> Iterator[Mesh]:
    command = [sys.executable, "-m", "meshctl", "lab", "addon", "kube-router", f"--name={mesh.lab.name}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    mesh.namespace(NS, enrolled=True)
    mesh.namespace(OUTSIDE)
    mesh.namespace(ELSEWHERE)
    mesh.echo(NS, "near", "node1")
    mesh.echo(NS, "far", "node2")
    mesh.client(NS, "client", "node1")
    mesh.client(NS, "other", "node1")
    mesh.client(OUTSIDE, "stranger", "node1")
    mesh.client(ELSEWHERE, "outsider", "node1")
    for name in ("near", "far", "client", "other"):
        eventually(lambda name=name: mesh.captured(NS, name), f"{name} is captured", within_s=60)
    yield mesh
    for namespace in (NS, OUTSIDE, ELSEWHERE):
        mesh.lab.kubectl("delete", "namespace", namespace, "--wait=false")
    mesh.lab.kubectl("delete", "daemonset", "-n", "kube-system", "kube-router", "--wait", timeout_s=60)
    for node in ("node1", "node2"):
        labs.machine(mesh.lab.name, node).run(["sh", "-c", CLEAN])


@pytest.fixture(autouse=True)
def no_policies(scene: Mesh) -> Iterator[None]:
    yield
    scene.lab.kubectl("delete", "networkpolicy", "-n", NS, "--all")


def allow(scene: Mesh, *ports: int, sources: list[dict[str, Any]] | None = None) -> None:
    """Let only the client (or these sources) reach the servers, on these ports."""
    peers = [{"podSelector": {"matchLabels": {"app": "client"}}}] if sources is None else sources
    policy = {
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "servers"},
        "spec": {
            "podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["near", "far"]}]},
            "ingress": [{"from": peers, "ports": [{"protocol": "TCP", "port": port} for port in ports]}],
        },
    }  # fmt: skip
    scene.lab.apply(json.dumps(policy), namespace=NS)


def reaches(scene: Mesh, client: str, server: str, namespace: str = NS) -> bool:
    """Whether a client gets the server's answer; fails on an answer that is neither that nor a refusal."""
    answer = scene.request(namespace, client, f"{server}.{NS}.svc.cluster.local", timeout_s=2)
    assert answer.endswith("hello") or answer in REFUSED, answer
    return answer.endswith("hello")


def in_force(scene: Mesh) -> None:
    """Wait until a policy is enforced, which admits no pod of a third namespace, and renew the clients of the mesh.

    Policies do not end established connections: a tunnel that was open before would carry new ones on. So the clients'
    pods are made again once no connection of theirs can have been earlier than the policy.
    """
    for server in SERVERS.values():
        eventually(
            lambda server=server: not reaches(scene, "outsider", server, ELSEWHERE),
            "the policy is enforced",
            within_s=40,
        )
    scene.lab.kubectl("delete", "pods", "-n", NS, "-l", "app in (client, other)", timeout_s=60)
    scene.lab.rolled_out("client", "other", namespace=NS)
    for name in ("client", "other"):
        eventually(lambda name=name: scene.captured(NS, name), f"{name} is captured", within_s=60)


def codes(scene: Mesh) -> set[str]:
    done = scene.culvert("analyze", "-n", NS, "-o", "json")
    return {one["code"] for one in json.loads(done.stdout) if one["kind"] == "NetworkPolicy"}


@pytest.mark.parametrize("server", SERVERS.values(), ids=SERVERS)
def test_without_a_policy_every_client_reaches_the_server(scene: Mesh, server: str) -> None:
    assert reaches(scene, "client", server)
    assert reaches(scene, "other", server)
    assert reaches(scene, "stranger", server, OUTSIDE)


@pytest.mark.parametrize("server", SERVERS.values(), ids=SERVERS)
def test_the_applications_port_alone_blocks_the_mesh_and_analyze_says_so(scene: Mesh, server: str) -> None:
    allow(scene, 9000)
    in_force(scene)
    assert not reaches(scene, "client", server), "the mesh is blocked"
    assert codes(scene) == {"CUL0140"}


@pytest.mark.parametrize("server", SERVERS.values(), ids=SERVERS)
def test_with_port_15008_the_policy_admits_only_the_peers_that_it_names(scene: Mesh, server: str) -> None:
    allow(scene, 9000, 15008)
    in_force(scene)
    assert not reaches(scene, "other", server), "another pod is kept out"
    eventually(lambda: reaches(scene, "client", server), "the named pod is admitted", within_s=40)
    assert not reaches(scene, "stranger", server, OUTSIDE)
    assert codes(scene) == {"CUL0141"}


@pytest.mark.parametrize("server", SERVERS.values(), ids=SERVERS)
def test_a_client_outside_the_mesh_needs_the_applications_port_only(scene: Mesh, server: str) -> None:
    allow(scene, 9000, sources=[{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": OUTSIDE}}}])
    in_force(scene)
    assert not reaches(scene, "client", server), "pods of the mesh are kept out"
    eventually(lambda: reaches(scene, "stranger", server, OUTSIDE), "the namespace is admitted", within_s=40)
    assert codes(scene) == set(), "peers outside the mesh do not use port 15008"


def test_probes_pass_under_a_default_deny(scene: Mesh) -> None:
    """The kubelet's probes reach captured pods under a default deny, as they reach pods without capture."""
    deny = {
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "deny"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
    }  # fmt: skip
    scene.lab.apply(json.dumps(deny), namespace=NS)
    in_force(scene)
    for server in SERVERS.values():
        assert not reaches(scene, "client", server), "no client is admitted"
    # A pod that starts under the policy becomes ready only if its probe passes.
    scene.lab.kubectl("rollout", "restart", "-n", NS, "deploy/near", "deploy/far")
    scene.lab.rolled_out("near", "far", namespace=NS)
    for server in SERVERS.values():
        assert scene.pod(NS, server)["status"]["containerStatuses"][0]["restartCount"] == 0
