"""How ready the parts are, and why a pod is not."""

from typing import Any

import pytest

from meshctl.components import Part, captured, is_ready, part_of, pod_selector, readiness, reason


def deployment(*, replicas: int, generation: int = 2, **status: int) -> dict[str, Any]:
    status.setdefault("observedGeneration", 2)
    return {"metadata": {"generation": generation}, "spec": {"replicas": replicas}, "status": status}


def daemon_set(**status: int) -> dict[str, Any]:
    return {"metadata": {"generation": 1}, "spec": {}, "status": {"observedGeneration": 1, **status}}


@pytest.mark.parametrize(
    ("item", "complete"),
    [
        (deployment(replicas=1), False),
        (deployment(replicas=1, updatedReplicas=1, availableReplicas=1), False),
    ],
)
def test_a_new_control_plane_is_not_complete(item: dict[str, Any], complete: bool) -> None:
    assert readiness(Part.CONTROL_PLANE, item).complete is complete


def test_a_control_plane_is_complete_when_only_its_new_pods_are_left() -> None:
    item = deployment(replicas=1, updatedReplicas=1, availableReplicas=1)
    item["status"]["replicas"] = 1
    assert readiness(Part.CONTROL_PLANE, item).complete
    item["status"]["replicas"] = 2
    assert not readiness(Part.CONTROL_PLANE, item).complete
    item["status"].update(replicas=1, observedGeneration=1)
    assert not readiness(Part.CONTROL_PLANE, item).complete, "the controller has not seen the change yet"


def test_a_daemon_set_counts_pods_of_the_present_version() -> None:
    half = daemon_set(desiredNumberScheduled=2, updatedNumberScheduled=1, numberAvailable=2)
    assert (readiness(Part.ZTUNNEL, half).ready, readiness(Part.ZTUNNEL, half).complete) == (1, False)
    whole = daemon_set(desiredNumberScheduled=2, updatedNumberScheduled=2, numberAvailable=2)
    assert readiness(Part.ZTUNNEL, whole).complete
    assert not readiness(Part.ZTUNNEL, daemon_set()).complete, "no node yet is not ready"


def test_a_draining_ztunnel_is_still_one_of_our_pods() -> None:
    assert pod_selector(Part.ZTUNNEL) == "app in (ztunnel,ztunnel-draining)"
    assert pod_selector(Part.NODE_AGENT) == "app in (istio-cni-node)"
    assert part_of({"metadata": {"labels": {"app": "ztunnel-draining"}}}) is Part.ZTUNNEL
    assert part_of({"metadata": {"labels": {"app": "web"}}}) is None


def pod(**fields: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p", **fields.pop("metadata", {})}, "spec": {}, "status": fields}


def test_reasons_are_kubernetes_own() -> None:
    waiting = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no\n such image"}}}
    assert reason(pod(containerStatuses=[waiting])) == "ImagePullBackOff: no such image"
    condition = {"type": "PodScheduled", "status": "False", "message": "0/2 nodes"}
    assert reason(pod(phase="Pending", conditions=[condition])) == "not scheduled: 0/2 nodes"
    assert reason(pod(phase="Running")) == "not ready yet"
    assert reason(pod(metadata={"deletionTimestamp": "now"})) == "terminating"


def test_a_pod_on_its_way_out_is_not_ready() -> None:
    ready = [{"type": "Ready", "status": "True"}]
    assert is_ready(pod(conditions=ready))
    assert not is_ready(pod(conditions=ready, metadata={"deletionTimestamp": "now"}))


def test_captured_pods_are_those_that_say_so() -> None:
    enabled = pod(metadata={"annotations": {"ambient.istio.io/redirection": "enabled"}})
    pending = pod(metadata={"annotations": {"ambient.istio.io/redirection": "pending"}})
    assert captured([enabled, pending, pod()]) == [enabled]
