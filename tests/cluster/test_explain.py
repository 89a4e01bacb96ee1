"""``culvert explain`` on an installed mesh: the way, who decides, and how many connections, from both nodes."""

import json
from typing import Any

import pytest

from tests.support.lab import eventually
from tests.support.mesh import Mesh

pytestmark = pytest.mark.root

NS = "explain"
OUTSIDE = "explain-outside"
DENY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody}
spec:
  action: DENY
  rules: [{from: [{source: {principals: [cluster.local/ns/explain/sa/client]}}]}]
"""


@pytest.fixture(scope="module")
def pods(mesh: Mesh) -> dict[str, str]:
    """A client in the mesh, one outside, and a server on the other node; their pods by application."""
    mesh.namespace(NS, enrolled=True)
    mesh.namespace(OUTSIDE)
    mesh.echo(NS, "server", "node1")
    mesh.client(NS, "client", "node2")
    mesh.client(OUTSIDE, "outsider", "node2")
    eventually(lambda: mesh.request(NS, "client", "server").endswith("hello"), "the server is reached")
    eventually(lambda: mesh.captured(NS, "server") and mesh.captured(NS, "client"), "both ends are captured")
    found = {"server": NS, "client": NS, "outsider": OUTSIDE}
    return {app: mesh.pod(namespace, app)["metadata"]["name"] for app, namespace in found.items()}


def explained(mesh: Mesh, source: str, destination: str) -> tuple[int, Any]:
    done = mesh.culvert("explain", source, destination, "-o", "json")
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_a_connection_in_the_mesh_is_carried_by_the_tunnel_until_a_policy_refuses_it(
    mesh: Mesh, pods: dict[str, str]
) -> None:
    client = f"{NS}/{pods['client']}"
    assert mesh.request(NS, "client", "server").endswith("hello")
    status, found = explained(mesh, client, "server:9000")
    assert status == 0
    [server] = found["endpoints"]
    assert (server["pod"], server["node"], server["port"]) == (f"{NS}/{pods['server']}", "node1", 9000)
    assert (server["path"], server["caller"]) == ("tunnel", f"spiffe://cluster.local/ns/{NS}/sa/client")
    assert found["source"]["capture"]["captured"]
    assert server["capture"]["captured"]
    assert server["connections"]["opened"]["mutual_tls"] >= 1
    assert server["verdict"] == {"allowed": True, "policy": "", "reason": "", "dryRun": []}

    mesh.lab.apply(DENY, namespace=NS)
    status, found = eventually(
        lambda: (answer := explained(mesh, client, "server:9000"))[0] and answer, "the policy is in force"
    )
    [server] = found["endpoints"]
    assert (status, server["allowed"], server["verdict"]["policy"]) == (3, False, f"{NS}/nobody")
    assert mesh.request(NS, "client", "server") != "hello", "and so it is"
    text = mesh.culvert("explain", client, "server:9000").stdout
    assert f"Policy refuses it: explicitly denied by: {NS}/nobody" in text
    mesh.lab.kubectl("delete", "authorizationpolicy", "nobody", "-n", NS)


def test_a_pod_outside_of_the_mesh_calls_in_plain_text_and_has_no_identity(mesh: Mesh, pods: dict[str, str]) -> None:
    assert mesh.request(OUTSIDE, "outsider", f"server.{NS}").endswith("hello")
    status, found = explained(mesh, f"{pods['outsider']}.{OUTSIDE}", f"server.{NS}.svc.cluster.local:9000")
    [server] = found["endpoints"]
    assert (status, server["path"], server["caller"]) == (0, "plain text", "")
    assert not found["source"]["capture"]["captured"]
    assert server["connections"]["opened"]["unknown"] >= 1


def test_a_port_that_a_service_does_not_have_is_refused_by_the_callers_ztunnel(
    mesh: Mesh, pods: dict[str, str]
) -> None:
    done = mesh.culvert("explain", f"{NS}/{pods['client']}", "server:9999")
    assert done.returncode == 3
    assert "has no port 9999" in done.stdout
    unknown = mesh.culvert("explain", f"{NS}/{pods['client']}", "nothing:80")
    assert (unknown.returncode, unknown.stderr) == (
        1,
        f"culvert explain: ztunnel knows no service or pod {NS}/nothing\n",
    )
