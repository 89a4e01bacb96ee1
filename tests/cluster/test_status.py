"""The status that users read on their policies, written to a real API server."""

import json
from typing import Any

import pytest

from meshapi import names
from tests.support.lab import eventually
from tests.support.mesh import SYSTEM, Mesh

pytestmark = pytest.mark.root

NS = "status"
DRY_RUN_SETTING = "AMBIENT_ENABLE_DRY_RUN_AUTHORIZATION_POLICY"


def policy(name: str, **spec: Any) -> str:
    kind = {"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": name}}
    return json.dumps({**kind, "spec": spec})


def conditions(mesh: Mesh, name: str) -> dict[str, dict[str, Any]]:
    item = mesh.lab.resource("authorizationpolicy", "-n", NS, name)
    return {one["type"]: one for one in (item.get("status") or {}).get("conditions", [])}


def test_a_policys_status_says_how_layer_4_enforces_it(mesh: Mesh) -> None:
    mesh.namespace(NS)
    mesh.lab.apply(policy("p", rules=[{"to": [{"operation": {"paths": ["/x"]}}]}]), namespace=NS)
    eventually(lambda: "ZtunnelAccepted" in conditions(mesh, "p"), "a condition is there")
    first = conditions(mesh, "p")["ZtunnelAccepted"]
    assert (first["status"], first["reason"]) == ("False", "UnsupportedValue")
    assert "spec.rules[0] allows nothing without a waypoint" in first["message"]

    other = {"type": "Other", "status": "True", "reason": "Mine", "message": "", "lastTransitionTime": None}
    patch = [{"op": "add", "path": "/status/conditions/-", "value": other}]
    where = ("authorizationpolicy", "p", "-n", NS, "--subresource=status", "--type=json")
    mesh.lab.kubectl("patch", *where, "-p", json.dumps(patch))
    mesh.lab.apply(policy("p", rules=[{"to": [{"operation": {"ports": ["80"]}}]}]), namespace=NS)
    eventually(lambda: conditions(mesh, "p")["ZtunnelAccepted"]["status"] == "True", "it follows the object")
    assert conditions(mesh, "p")["ZtunnelAccepted"]["observedGeneration"] == 2
    assert "Other" in conditions(mesh, "p"), "another controller's condition stays"


def test_a_dry_run_refuses_nothing_and_logs_its_verdict(mesh: Mesh) -> None:
    mesh.namespace(NS, enrolled=True)
    mesh.echo(NS, "server", "node1")
    mesh.client(NS, "client", "node2")
    eventually(lambda: mesh.request(NS, "client", "server").endswith("hello"), "the server is reached")
    switch = f"{DRY_RUN_SETTING}=true"
    mesh.lab.kubectl("set", "env", "-n", SYSTEM, "deploy/istiod", switch)
    try:
        mesh.lab.rolled_out("istiod", namespace=SYSTEM, timeout_s=90)
        document = json.loads(policy("dry", action="DENY", rules=[{}]))
        document["metadata"]["annotations"] = {names.DRY_RUN_ANNOTATION: "true"}
        mesh.lab.apply(json.dumps(document), namespace=NS)
        eventually(lambda: "ZtunnelAccepted" in conditions(mesh, "dry"), "a condition is there", within_s=30)
        assert conditions(mesh, "dry")["ZtunnelAccepted"]["status"] == "True"

        def logged() -> bool:
            assert mesh.request(NS, "client", "server").endswith("hello")
            return f'dry_run="explicitly denied by: {NS}/dry"' in mesh.ztunnel_log(since_s=60)

        eventually(logged, "the server's access log has the verdict")
    finally:
        mesh.lab.kubectl("set", "env", "-n", SYSTEM, "deploy/istiod", f"{DRY_RUN_SETTING}=false")
        mesh.lab.rolled_out("istiod", namespace=SYSTEM, timeout_s=90)
