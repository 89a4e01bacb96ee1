"""AuthorizationPolicy and PeerAuthentication between real pods; the access log names the policy."""

import pytest

from tests.support.lab import eventually
from tests.support.mesh import Mesh

pytestmark = pytest.mark.root

NS = "policy"
REFUSED = ("<ConnectionResetError>", "<ended>", "<BrokenPipeError>")


@pytest.fixture(scope="module")
def app(mesh: Mesh) -> Mesh:
    mesh.namespace(NS, enrolled=True)
    mesh.namespace("strangers")
    mesh.echo(NS, "server", "node1")
    mesh.client(NS, "friend", "node2")
    mesh.client(NS, "neighbour", "node1")
    mesh.client("strangers", "stranger", "node2")
    for name in ("server", "friend", "neighbour"):
        eventually(lambda name=name: mesh.captured(NS, name), f"{name} is captured")
    return mesh


@pytest.fixture(autouse=True)
def without_policies(app: Mesh):
    yield
    for namespace in (NS, "istio-system"):
        app.lab.kubectl("delete", "authorizationpolicies,peerauthentications", "--all", "-n", namespace)
    eventually(lambda: friend(app).endswith("hello") and stranger(app).endswith("hello"), "policies are gone")


def friend(app: Mesh) -> str:
    return app.request(NS, "friend", "server")


def neighbour(app: Mesh) -> str:
    return app.request(NS, "neighbour", "server")


def stranger(app: Mesh) -> str:
    return app.request("strangers", "stranger", f"server.{NS}.svc.cluster.local")


def policy(app: Mesh, name: str, action: str, rule: str) -> None:
    text = f"""
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}}}
spec:
  selector: {{matchLabels: {{app: server}}}}
  action: {action}
  rules: [{rule}]
"""
    app.lab.apply(text, namespace=NS)


def peer_authentication(app: Mesh, mode: str, namespace: str = NS) -> None:
    text = f"""
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: default}}
spec: {{mtls: {{mode: {mode}}}}}
"""
    app.lab.apply(text, namespace=namespace)


def becomes(probe, allowed: bool, what: str) -> None:
    def as_wanted() -> bool:
        answer = probe()
        assert answer.endswith("hello") or answer in REFUSED, answer
        return answer.endswith("hello") is allowed

    eventually(as_wanted, what)


def test_allow_by_principal_closes_the_server_to_others(app: Mesh) -> None:
    policy(app, "only-friend", "ALLOW", f'{{from: [{{source: {{principals: ["cluster.local/ns/{NS}/sa/friend"]}}}}]}}')
    becomes(lambda: neighbour(app), False, "the neighbour is refused")
    becomes(lambda: stranger(app), False, "plain text is refused")
    assert friend(app).endswith("hello")
    app.logged('src.workload="neighbour', "allow policies exist, but none allowed")


def test_deny_by_principal_is_named_in_the_log(app: Mesh) -> None:
    policy(app, "no-friend", "DENY", f'{{from: [{{source: {{principals: ["cluster.local/ns/{NS}/sa/friend"]}}}}]}}')
    becomes(lambda: friend(app), False, "the friend is refused")
    assert neighbour(app).endswith("hello")
    assert stranger(app).endswith("hello")
    app.logged('src.workload="friend', f"explicitly denied by: {NS}/no-friend")


def test_deny_by_namespace_address_and_port(app: Mesh) -> None:
    policy(app, "namespaces", "DENY", f'{{from: [{{source: {{namespaces: ["{NS}"]}}}}]}}')
    becomes(lambda: friend(app), False, "clients of the namespace are refused")
    assert stranger(app).endswith("hello"), "plain text has no namespace"
    app.lab.kubectl("delete", "authorizationpolicy", "namespaces", "-n", NS)
    becomes(lambda: friend(app), True, "the policy is gone")

    address = app.pod("strangers", "stranger")["status"]["podIP"]
    policy(app, "addresses", "DENY", f'{{from: [{{source: {{ipBlocks: ["{address}/32"]}}}}]}}')
    becomes(lambda: stranger(app), False, "the address is refused")
    assert friend(app).endswith("hello")

    policy(app, "ports", "DENY", '{to: [{operation: {ports: ["9000"]}}]}')
    becomes(lambda: friend(app), False, "the port is refused")


def test_strict_refuses_plain_text_and_permissive_serves_it(app: Mesh) -> None:
    peer_authentication(app, "STRICT")
    becomes(lambda: stranger(app), False, "plain text is refused under STRICT")
    assert friend(app).endswith("hello")
    app.logged('direction="inbound"', "istio_converted_static_strict")
    peer_authentication(app, "PERMISSIVE")
    becomes(lambda: stranger(app), True, "plain text is served under PERMISSIVE")
    peer_authentication(app, "STRICT", "istio-system")
    assert stranger(app).endswith("hello"), "the namespace's word is nearer than the mesh's"
    app.lab.kubectl("delete", "peerauthentication", "default", "-n", NS)
    becomes(lambda: stranger(app), False, "the mesh is STRICT")


def test_kubelet_probes_and_common_connections_work_under_strict(app: Mesh) -> None:
    peer_authentication(app, "STRICT", "istio-system")
    becomes(lambda: stranger(app), False, "the mesh is STRICT")
    app.lab.kubectl("rollout", "restart", "-n", NS, "deploy/server")
    app.lab.rolled_out("server", namespace=NS)
    eventually(lambda: friend(app).endswith("hello"), "the new server is reached")
    pod = app.pod(NS, "server")
    assert pod["status"]["containerStatuses"][0]["restartCount"] == 0, "probes pass"

    own = pod["status"]["podIP"]
    assert app.request(NS, "server", own) == f"{own} hello", "a pod calls itself"
    assert app.request(NS, "server", "127.0.0.1") == "127.0.0.1 hello"
    assert app.request(NS, "friend", own).endswith("hello"), "a pod's address instead of a service's"
    status = app.lab.run(
        "friend", "curl", "-sk", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}",
        "https://kubernetes.default.svc/healthz", namespace=NS,
    )  # fmt: skip
    assert status in {"200", "401", "403"}, "the API server answers"
    with app.outside_server() as outside:
        assert app.request(NS, "friend", outside).endswith("hello"), "an address outside the mesh"


def test_headless_services_lead_to_their_pods(app: Mesh) -> None:
    text = """
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, selector: {app: server}, ports: [{name: tcp, port: 9000}]}
"""
    app.lab.apply(text, namespace=NS)
    eventually(lambda: app.request(NS, "friend", "headless").endswith("hello"), "the name has an address")
    line = app.logged('src.workload="friend', 'direction="inbound"')
    assert "src.identity" in line


def test_a_malformed_policy_is_refused_by_field(app: Mesh) -> None:
    with pytest.raises(AssertionError, match=r"spec\.action"):
        policy(app, "bad", "MAYBE", "{}")
