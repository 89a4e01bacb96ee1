"""``culvert verify-install``: what is said of each object that was installed."""

from typing import Any

import pytest

from meshapi import names
from meshctl import chart, verify_install

Json = dict[str, Any]
ROLE = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "istiod"}}
ACCOUNT = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "istiod", "namespace": "mesh"}}
AGENT = {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": names.NODE_AGENT_DAEMON_SET}}


def daemon_set(ready: int) -> Json:
    status = {"desiredNumberScheduled": 2, "updatedNumberScheduled": 2, "numberAvailable": ready}
    return {**AGENT, "status": status, "spec": {}}


def definition(established: str) -> Json:
    return {**chart.definitions(chart.folder())[0], "status": {"conditions": [
        {"type": "NamesAccepted", "status": "True"}, {"type": "Established", "status": established}]}}  # fmt: skip


@pytest.mark.parametrize(
    ("item", "held", "fault"),
    [
        (ROLE, ROLE, ""),
        (ROLE, None, "not found"),
        (AGENT, daemon_set(2), ""),
        (AGENT, daemon_set(1), "1 of 2 pods are ready"),
        (definition("True"), definition("True"), ""),
        (definition("True"), definition("False"), "not established"),
    ],
)
def test_what_is_wrong_with_an_object(item: Json, held: Json | None, fault: str) -> None:
    assert verify_install.fault_of(item, held) == fault


def test_each_object_has_a_line() -> None:
    assert verify_install.line(ROLE, "istio-system", "") == "✔ ClusterRole: istiod checked successfully"
    assert verify_install.line(ACCOUNT, "istio-system", "") == "✔ ServiceAccount: istiod.mesh checked successfully"
    assert (
        verify_install.line(AGENT, "istio-system", "not found") == "✘ DaemonSet: istio-cni-node.istio-system: not found"
    )
