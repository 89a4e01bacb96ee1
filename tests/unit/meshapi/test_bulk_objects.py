"""Objects that exist in large numbers: what is read, what is left out, and how a fault is named."""

from typing import Any

import pytest

from meshapi.errors import InvalidResource
from meshapi.resources import base, core

POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web", "namespace": "shop", "managedFields": [{"manager": "kubelet"}]},
    "spec": {"nodeName": "node-1", "containers": [{"name": "main", "image": "x", "ports": [{"containerPort": 80}]}]},
    "status": {
        "podIP": "10.0.0.1",
        "podIPs": [{"ip": "10.0.0.1"}],
        "conditions": [{"type": "Ready", "status": "True"}],
    },
}


def test_only_the_fields_that_the_mesh_reads_are_kept() -> None:
    pod = base.read(core.Pod, POD)
    assert (pod.key, pod.spec.node_name, pod.spec.containers[0].ports[0].container_port) == (
        ("shop", "web"),
        "node-1",
        80,
    )
    assert (pod.addresses, pod.is_ready, pod.metadata.labels) == (("10.0.0.1",), True, {})
    other = {**POD, "metadata": {**POD["metadata"], "managedFields": []}}
    assert base.read(core.Pod, other) == pod, "a heartbeat is no change"


def test_null_is_read_as_absent_wherever_it_is() -> None:
    item = {
        **POD,
        "metadata": {"name": "web", "namespace": "shop", "labels": None, "ownerReferences": None},
        "spec": {**POD["spec"], "initContainers": None, "hostNetwork": None},
    }
    pod = base.read(core.Pod, item)
    assert (pod.metadata.labels, pod.spec.init_containers, pod.spec.host_network) == ({}, (), False)


@pytest.mark.parametrize(
    ("item", "field"),
    [
        ({**POD, "spec": {"hostNetwork": "perhaps"}}, "spec.hostNetwork"),
        ({**POD, "spec": {"containers": [{"ports": [{"containerPort": "http"}]}]}}, "containerPort"),
        ({**POD, "metadata": {"name": "web", "labels": {"app": 1}}}, "metadata.labels"),
        ({**POD, "status": []}, "status"),
    ],
)
def test_a_fault_names_object_and_field(item: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidResource) as refused:
        base.read(core.Pod, item)
    assert field in refused.value.field
    assert "web" in str(refused.value)


def test_metadata_of_other_objects_is_read_by_the_same_rules() -> None:
    class Thing(base.ModelObject):
        pass

    assert base.read(Thing, {"metadata": {"name": "a", "unknown": 1}}).key == ("", "a")
    with pytest.raises(InvalidResource, match="generation"):
        base.read(Thing, {"metadata": {"name": "a", "generation": "x"}})
