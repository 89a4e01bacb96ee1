"""The node agent's page of pods: which are captured, and why the others are not."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from meshapi.analysis.enrolment import Enrolment, EnrolmentRules
from nodeagent import debug
from nodeagent.discovery.enrolment import PodInfo, enrolment_of
from nodeagent.enrolment.state import PodRecord, PodStates, State
from tests.support.enrolling import POD, World

OPERATIONS = Path(__file__).parents[3] / "docs" / "operations.md"
AMBIENT = {"istio.io/dataplane-mode": "ambient"}
SINCE = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)


def entry(pod: PodInfo, record: PodRecord, labels: dict[str, str] | None = None) -> dict[str, Any]:
    text = debug.pods_page(
        [pod], lambda _: record, lambda one: enrolment_of(one, labels or {}, EnrolmentRules()), backend="nftables"
    )
    (found,) = json.loads(text)
    return dict(found)


@pytest.mark.parametrize(("pod", "labels", "reason"), [
    (POD, {}, "neither the pod nor its namespace has the label"),
    (replace(POD, labels={"istio.io/dataplane-mode": "none"}), AMBIENT, "the pod's label opts out"),
    (replace(POD, host_network=True), AMBIENT, "the pod is on the host's network"),
    (replace(POD, annotations={"sidecar.istio.io/status": "{}"}), AMBIENT, "the pod has a sidecar"),
    (replace(POD, terminal=True), AMBIENT, "the pod has terminated"),
    (replace(POD, namespace="kube-system"), AMBIENT, "the namespace is excluded"),
    (
        replace(POD, namespace="istio-system", labels={"app": "ztunnel"}), AMBIENT,
        "ztunnel carries the traffic and is not captured itself",
    ),
])  # fmt: skip
def test_a_pod_that_is_not_enrolled_has_its_reason(pod: PodInfo, labels: dict[str, str], reason: str) -> None:
    assert entry(pod, PodRecord(State.NOT_ENROLLED, SINCE), labels) == {
        "namespace": pod.namespace, "name": "web", "uid": "u",
        "addresses": list(pod.addresses), "state": "not-enrolled",
        "since": "2026-01-02T03:04:05Z", "backend": None, "reason": reason, "egress": None, "overruled": [],
    }  # fmt: skip


def test_a_captured_pod_has_its_backend_and_no_reason() -> None:
    found = entry(POD, PodRecord(State.ANNOUNCED, SINCE), AMBIENT)
    assert (found["state"], found["backend"], found["reason"]) == ("announced", "nftables", "")


def test_a_pod_that_drains_has_its_backend_and_the_reason_why_it_is_no_longer_enrolled() -> None:
    found = entry(POD, PodRecord(State.DRAINING, SINCE))
    assert (found["backend"], found["reason"]) == ("nftables", "neither the pod nor its namespace has the label")


@pytest.mark.parametrize(("pod", "record", "reason"), [
    (POD, PodRecord(State.WAITING, SINCE, "ztunnel: port 15008 is taken"), "ztunnel: port 15008 is taken"),
    (replace(POD, addresses=()), PodRecord(State.WAITING, SINCE),
     "its sandbox has no address yet; the CNI plugin will request its capture"),
    (POD, PodRecord(State.NEW, SINCE), "the node agent has not reconciled it yet"),
    (POD, PodRecord(State.CAPTURED, SINCE, "cannot annotate pod"), "cannot annotate pod"),
])  # fmt: skip
def test_an_enrolled_pod_says_what_it_waits_for(pod: PodInfo, record: PodRecord, reason: str) -> None:
    assert entry(pod, record, AMBIENT)["reason"] == reason


def test_pods_are_sorted_by_namespace_and_name() -> None:
    pods = [replace(POD, name="b"), replace(POD, namespace="a"), POD, replace(POD, name="a")]
    page = json.loads(debug.pods_page(pods, PodStates().observe, lambda _: Enrolment.NOT_LABELLED, backend="iptables"))
    assert [f"{one['namespace']}/{one['name']}" for one in page] == ["a/web", "shop/a", "shop/b", "shop/web"]


async def test_the_page_shows_what_enrolment_has_done() -> None:
    world = World()

    def page() -> dict[str, Any]:
        text = debug.pods_page(
            world.pods.values(), world.states.observe, world.controller.enrolment, backend="nftables"
        )
        (found,) = json.loads(text)
        return dict(found)

    assert page()["state"] == "new"
    await world.settle()
    assert (page()["state"], page()["backend"], page()["reason"]) == ("announced", "nftables", "")


def test_every_field_and_state_is_documented() -> None:
    text = OPERATIONS.read_text()
    assert all(f"`{name}`" in text for name in (*entry(POD, PodRecord(State.NEW, SINCE)), *State))
