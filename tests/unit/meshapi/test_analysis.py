"""One meaning of enrolment and of canonical names for every part that needs it."""

import itertools

import pytest

from controlplane.ambient.service_entries import translate_workload
from controlplane.ambient.workloads import translate_pod
from controlplane.inputs.mesh import MeshContext
from meshapi import names
from meshapi.analysis import canonical
from meshapi.analysis.enrolment import Enrolment, EnrolmentRules
from meshapi.resources import base, core, networking
from meshctl.analysis.world import World
from nodeagent.discovery.enrolment import enrolment_of
from nodeagent.discovery.pods import parse_pod
from tests.support import kubernetes_objects as objects

RULES = EnrolmentRules(frozenset({"kube-system", "left-alone"}), "istio-system")
MODES = (None, "ambient", "none", "Ambient")


@pytest.mark.parametrize("namespace", ["shop", "kube-system", "left-alone", "istio-system"])
def test_node_agent_and_analyze_agree_on_who_is_enrolled(namespace: str) -> None:
    for own, inherited, app, sidecar, host, phase in itertools.product(
        MODES, MODES, ("web", "ztunnel"), (False, True), (False, True), ("Running", "Succeeded")
    ):
        labels = {"app": app} | ({names.DATAPLANE_MODE_LABEL: own} if own else {})
        inherited_labels = {names.DATAPLANE_MODE_LABEL: inherited} if inherited else {}
        item = objects.pod("p", namespace, labels=labels, host_network=host, phase=phase)
        if sidecar:
            item["metadata"]["annotations"] = {names.SIDECAR_STATUS_ANNOTATION: "{}"}
        world = World(rules=RULES)
        world.add({"metadata": {"name": namespace, "labels": inherited_labels}}, "Namespace")
        by_the_agent = enrolment_of(parse_pod(item), inherited_labels, RULES)
        assert world.enrolment(base.read(core.Pod, item)) is by_the_agent, item


@pytest.mark.parametrize(
    ("namespace", "pod", "expected"),
    [
        ({"istio-injection": "enabled"}, {}, True),
        ({"istio-injection": "disabled"}, {}, False),
        ({}, {"sidecar.istio.io/inject": "true"}, False),
        ({"istio-injection": "enabled"}, {"sidecar.istio.io/inject": "false"}, False),
        ({"istio-injection": "enabled"}, {names.DATAPLANE_MODE_LABEL: "none"}, False),
        ({"istio-injection": "enabled", names.DATAPLANE_MODE_LABEL: "none"}, {}, False),
        (
            {"istio-injection": "enabled", names.DATAPLANE_MODE_LABEL: "ambient"},
            {"sidecar.istio.io/inject": "false"},
            True,
        ),
    ],
)
def test_the_label_for_sidecars_enrols_where_that_is_wanted(
    namespace: dict[str, str], pod: dict[str, str], *, expected: bool
) -> None:
    found = parse_pod(objects.pod("p", "shop", labels=pod))
    result = enrolment_of(found, namespace, EnrolmentRules(injection_enrols=True))
    assert (result is Enrolment.ENROLLED) is expected
    ignored = enrolment_of(found, namespace, EnrolmentRules()) is Enrolment.ENROLLED
    assert ignored is (namespace.get(names.DATAPLANE_MODE_LABEL) == "ambient")


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {"app": "short", "version": "v1"},
        {"app": "short", names.APP_NAME_LABEL: "recommended", names.APP_VERSION_LABEL: "v2", "version": "v1"},
        {names.APP_NAME_LABEL: "recommended", names.CANONICAL_NAME_LABEL: "own", names.CANONICAL_REVISION_LABEL: "v3"},
    ],
)
def test_pods_and_workload_entries_have_the_same_canonical_name(labels: dict[str, str]) -> None:
    pod = translate_pod(
        base.read(core.Pod, objects.pod("w", labels=labels)), MeshContext(), services=[], node=None, policies=[]
    )
    assert pod is not None
    item = {"metadata": {"name": "w", "namespace": "shop"}, "spec": {"address": "10.0.0.2", "labels": labels}}
    entry = translate_workload(base.read(networking.WorkloadEntry, item), MeshContext(), services={}, policies=[])
    assert entry is not None
    assert (pod.canonical_name, pod.canonical_revision) == (entry.canonical_name, entry.canonical_revision)
    assert pod.canonical_name == canonical.name(labels, "w")
