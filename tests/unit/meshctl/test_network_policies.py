"""NetworkPolicies that block the mesh's port, or that no longer restrict any peer."""

from typing import Any

import pytest

from tests.support import kubernetes_objects as objects
from tests.unit.meshctl.test_analyze import codes, namespace

WEB, CLIENT = {"app": "web"}, {"app": "client"}
APP = {"protocol": "TCP", "port": 8080}
MESH = {"port": 15008}
FROM_CLIENT = [{"podSelector": {"matchLabels": CLIENT}}]
BLOCKED, UNRESTRICTED = "CUL0140", "CUL0141"
ALLOW = objects.policy("a", selector={"matchLabels": WEB}, rules=[{"to": [{"operation": {"ports": ["8080"]}}]}])
Json = dict[str, Any]


def found(*policies: Json, mode: str | None = "ambient", **others: list[Json]) -> list[tuple[str, str]]:
    pods = [
        objects.pod("web-1", labels=WEB, captured=mode is not None),
        objects.pod("client-1", labels=CLIENT, captured=mode is not None),
        objects.pod("outside-1", namespace="outside", labels={"app": "outside"}),
    ]
    spaces = [namespace("shop", mode), {"metadata": {"name": "outside", "labels": {"name": "outside"}}}]
    return codes(Namespace=spaces, Pod=pods, NetworkPolicy=list(policies), **others)


def network_policy(name: str = "np", **spec: Any) -> Json:
    return {"metadata": {"name": name, "namespace": "shop"}, "spec": {"podSelector": {"matchLabels": WEB}, **spec}}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"ingress": [{"from": FROM_CLIENT, "ports": [APP]}]}, [(BLOCKED, "spec.ingress[0].ports")]),
        ({"ingress": [{"ports": [APP]}]}, [(BLOCKED, "spec.ingress[0].ports")]),
        ({"ingress": [{"ports": [{"port": "http"}]}]}, [(BLOCKED, "spec.ingress[0].ports")]),
        ({"ingress": [{"ports": [{"protocol": "UDP", "port": 15008}]}]}, [(BLOCKED, "spec.ingress[0].ports")]),
        ({"ingress": [{"from": FROM_CLIENT}]}, []),
        ({"ingress": [{"ports": [{"port": 8080, "endPort": 16000}]}]}, [(UNRESTRICTED, "spec.ingress[0].ports")]),
        ({"ingress": [{"from": FROM_CLIENT, "ports": [APP, MESH]}]}, [(UNRESTRICTED, "spec.ingress[0].ports")]),
        ({"ingress": [{"from": FROM_CLIENT, "ports": [APP]}, {"from": FROM_CLIENT, "ports": [MESH]}]},
         [(UNRESTRICTED, "spec.ingress[1].ports")]),
        ({"ingress": [{"from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}], "ports": [APP]}]}, []),
        ({"ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"name": "outside"}}}], "ports": [APP]}]}, []),
        ({"ingress": []}, []),
        ({"egress": [{"to": FROM_CLIENT, "ports": [APP]}], "policyTypes": ["Egress"]},
         [(BLOCKED, "spec.egress[0].ports")]),
        ({"egress": [{"to": FROM_CLIENT, "ports": [APP, MESH]}], "policyTypes": ["Egress"]}, []),
        ({"egress": [{"ports": [{"protocol": "UDP", "port": 53}, {"port": 53}]}], "policyTypes": ["Egress"]}, []),
        ({"egress": [{"to": [{"namespaceSelector": {"matchLabels": {"name": "outside"}}}], "ports": [APP]}],
          "policyTypes": ["Egress"]}, []),
    ],
)  # fmt: skip
def test_rules_of_a_policy_for_enrolled_pods(spec: Json, expected: list[tuple[str, str]]) -> None:
    assert found(network_policy(**spec)) == expected


def test_another_policy_may_open_the_port() -> None:
    application = network_policy(ingress=[{"from": FROM_CLIENT, "ports": [APP]}])
    mesh = network_policy("mesh", ingress=[{"ports": [MESH]}])
    assert found(application, mesh) == [(UNRESTRICTED, "spec.ingress[0].ports")]
    elsewhere = network_policy("mesh", podSelector={"matchLabels": CLIENT}, ingress=[{"ports": [MESH]}])
    assert (BLOCKED, "spec.ingress[0].ports") in found(application, elsewhere)


def test_ports_that_an_authorization_policy_restricts_are_left_alone() -> None:
    opened = network_policy(ingress=[{"from": FROM_CLIENT, "ports": [APP, MESH]}])
    assert found(opened, AuthorizationPolicy=[ALLOW]) == []


def test_pods_outside_the_mesh_are_left_alone() -> None:
    assert found(network_policy(ingress=[{"ports": [APP]}]), mode=None) == []
