"""Which pods are enrolled in the mesh."""

from dataclasses import replace

import pytest

from meshapi.analysis.enrolment import Enrolment, EnrolmentRules
from nodeagent.discovery.enrolment import PodInfo, enrolment_of
from nodeagent.discovery.pods import parse_pod

POD = PodInfo(
    uid="u", namespace="shop", name="web", service_account="web", labels={}, annotations={},
    addresses=("10.0.0.1",), host_network=False, terminal=False,
)  # fmt: skip
AMBIENT = {"istio.io/dataplane-mode": "ambient"}
NONE = {"istio.io/dataplane-mode": "none"}
HELD = {"culvert.io/egress": "registry-only"}
SIDECAR = {"sidecar.istio.io/status": "{}"}
PROXY = {"gateway.istio.io/managed": "istio.io-mesh-controller"}


@pytest.mark.parametrize(
    ("pod", "namespace", "expected"),
    [
        (POD, {}, False),
        (POD, AMBIENT, True),
        (POD, {"istio.io/dataplane-mode": "Ambient"}, False),
        (replace(POD, labels=AMBIENT), {}, True),
        (replace(POD, labels=NONE), AMBIENT, False),
        (replace(POD, labels={"istio.io/dataplane-mode": "other"}), AMBIENT, True),
        (replace(POD, host_network=True), AMBIENT, False),
        (replace(POD, terminal=True), AMBIENT, False),
        (replace(POD, annotations={"sidecar.istio.io/status": "{}"}), AMBIENT, False),
        (replace(POD, namespace="kube-system"), AMBIENT, False),
        (replace(POD, namespace="istio-system", labels={"app": "ztunnel"}), AMBIENT, False),
        (replace(POD, namespace="istio-system", labels={"app": "ztunnel-draining"}), AMBIENT, False),
        (replace(POD, namespace="istio-system"), AMBIENT, True),
        (replace(POD, labels={"app": "ztunnel"}), AMBIENT, True),
        # No pod opts out of a namespace whose pods may reach only what the registry knows.
        (replace(POD, labels=NONE), AMBIENT | HELD, True),
        (replace(POD, labels=NONE | HELD), AMBIENT, True),
        (replace(POD, labels=NONE | {"culvert.io/egress": "allow-any"}), AMBIENT | HELD, True),
        (replace(POD, annotations=SIDECAR), AMBIENT | HELD, True),
        (replace(POD, labels=NONE | PROXY), AMBIENT | HELD, False),
        (replace(POD, labels=NONE), HELD, False),
        (replace(POD, namespace="kube-system", labels=NONE), AMBIENT | HELD, False),
    ],
)
def test_which_pods_are_enrolled(pod: PodInfo, namespace: dict[str, str], expected: bool) -> None:
    assert (enrolment_of(pod, namespace, EnrolmentRules()) is Enrolment.ENROLLED) is expected


def test_a_pod_is_read_from_the_api() -> None:
    pod = parse_pod(
        {
            "metadata": {"uid": "u", "namespace": "shop", "name": "web"},
            "spec": {"nodeName": "n"},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]},
        }
    )
    assert pod == replace(POD, service_account="default", addresses=("10.0.0.1", "fd00::1"))
    done = parse_pod({"metadata": {"uid": "u", "namespace": "a", "name": "b"}, "status": {"phase": "Succeeded"}})
    assert (done.terminal, done.terminating) == (True, False)
    leaving = {"metadata": {"uid": "u", "namespace": "a", "name": "b", "deletionTimestamp": "2026-01-01T00:00:00Z"}}
    assert parse_pod(leaving).terminating
    assert done.addresses == ()
