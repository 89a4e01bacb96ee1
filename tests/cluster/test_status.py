"""What users read on their policies, written to a real API server."""

import json
from typing import Any

import pytest

from tests.support.lab import eventually
from tests.support.mesh import Mesh

pytestmark = pytest.mark.root

NS = "status"


def policy(name: str, **spec: Any) -> str:
    kind = {"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": name}}
    return json.dumps({**kind, "spec": spec})


def conditions(mesh: Mesh, name: str) -> dict[str, dict[str, Any]]:
    item = mesh.lab.resource("authorizationpolicy", "-n", NS, name)
    return {one["type"]: one for one in (item.get("status") or {}).get("conditions", [])}


def test_a_policy_says_what_layer_4_makes_of_it(mesh: Mesh) -> None:
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
    assert "Other" in conditions(mesh, "p"), "somebody else's condition stays"
