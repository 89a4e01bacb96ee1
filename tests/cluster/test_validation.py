"""What `kubectl apply` says of an object of the mesh that cannot be used."""

import json
from typing import Any

import pytest

from tests.support.lab import eventually, install
from tests.support.mesh import SYSTEM, Mesh

pytestmark = pytest.mark.root

NS = "validation"
CONFIGURATION = f"istio-validator-{SYSTEM}"


@pytest.fixture(scope="module", autouse=True)
def namespace(mesh: Mesh) -> None:
    mesh.namespace(NS)


def virtual_service(name: str = "reviews", **rule: Any) -> str:
    http = [{"route": [{"destination": {"host": "reviews"}}], **rule}]
    return json.dumps(
        {
            "apiVersion": "networking.istio.io/v1beta1",
            "kind": "VirtualService",
            "metadata": {"name": name, "namespace": NS},
            "spec": {"hosts": ["reviews"], "http": http},
        }
    )


def policies(mesh: Mesh) -> set[str]:
    found = mesh.lab.resource("validatingwebhookconfigurations", CONFIGURATION)
    return {one["failurePolicy"] for one in found["webhooks"]}


def test_the_webhook_fails_closed_once_the_control_plane_serves(mesh: Mesh) -> None:
    eventually(lambda: policies(mesh) == {"Fail"}, "the control plane has added its roots")


def test_an_object_that_cannot_be_used_is_refused_with_the_field(mesh: Mesh) -> None:
    mesh.lab.kubectl("apply", "-f", "-", stdin=virtual_service())
    with pytest.raises(AssertionError) as refused:
        mesh.lab.kubectl("apply", "-f", "-", stdin=virtual_service(corsPolicy={"maxAge": "soon"}))
    assert "validation.istio.io" in str(refused.value)
    assert "spec.http[0].corsPolicy.maxAge" in str(refused.value)
    kept = mesh.lab.resource("virtualservice", "-n", NS, "reviews")
    assert "corsPolicy" not in kept["spec"]["http"][0]


def test_a_dry_run_on_the_server_says_the_same(mesh: Mesh) -> None:
    with pytest.raises(AssertionError, match="retries"):
        text = virtual_service("other", retries={"attempts": -1})
        mesh.lab.kubectl("apply", "--dry-run=server", "-f", "-", stdin=text)


def test_an_upgrade_does_not_open_it(mesh: Mesh) -> None:
    before = mesh.lab.resource("validatingwebhookconfigurations", CONFIGURATION)["metadata"]["generation"]
    install(mesh.lab)
    assert policies(mesh) == {"Fail"}
    after = mesh.lab.resource("validatingwebhookconfigurations", CONFIGURATION)["metadata"]["generation"]
    assert after == before, "the chart has not written another policy in between"
