"""``culvert describe``: which policies apply and in which order, and the text.

With real proxies: ``tests/scenarios/test_proxy_config.py`` (routes), ``tests/integration/test_proxy_config.py`` (pods).
"""

from typing import Any

import pytest

from meshapi import names
from meshctl.description import facts, policies, text
from meshctl.proxy_config.dump import Dump

GATEWAY_GROUP = "gateway.networking.k8s.io"
SCOPE = policies.Scope(("shop", "web"), ("infra", "way"), "istio-system")


def policy(
    name: str, namespace: str, *targets: tuple[str, str, str], action: str = "", kind: str = ""
) -> dict[str, Any]:
    references = [{"group": group, "kind": of, "name": target} for group, of, target in targets]
    spec: dict[str, Any] = {"targetRefs": references} if references else {"selector": {"matchLabels": {"app": "web"}}}
    if action:
        spec["action"] = action
    return {
        "kind": kind or "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


SERVICE = ("", "Service", "web")


def test_policies_of_a_waypoint_are_in_the_order_of_evaluation() -> None:
    items = [
        policy("audit", "shop", SERVICE, action="AUDIT"),
        policy("b", "shop", SERVICE),
        policy("a", "infra", (GATEWAY_GROUP, "Gateway", "way"), action="ALLOW"),
        policy("deny", "istio-system", (GATEWAY_GROUP, "GatewayClass", "istio-waypoint"), action="DENY"),
        policy("ask", "shop", ("core", "Service", "web"), action="CUSTOM"),
        policy("tokens", "shop", SERVICE, kind="RequestAuthentication"),
    ]
    found = policies.at_waypoint(items, SCOPE)
    assert [(one.get("action", ""), one["name"]) for one in found] == [
        ("", "shop/tokens"),
        ("CUSTOM", "shop/ask"),
        ("DENY", "istio-system/deny"),
        ("ALLOW", "infra/a"),
        ("ALLOW", "shop/b"),
        ("AUDIT", "shop/audit"),
    ]


@pytest.mark.parametrize(
    "item",
    [
        policy("other", "shop", ("", "Service", "other")),
        policy("elsewhere", "dev", SERVICE),
        policy("class", "shop", (GATEWAY_GROUP, "GatewayClass", "istio-waypoint")),
        policy("gateway", "shop", (GATEWAY_GROUP, "Gateway", "way")),
        policy("pods", "shop"),
    ],
    ids=lambda item: item["metadata"]["name"],
)
def test_policies_that_are_not_for_the_service_are_left_out(item: dict[str, Any]) -> None:
    assert policies.at_waypoint([item], SCOPE) == []


def test_what_is_wrong_with_a_policy_and_that_it_is_a_dry_run_is_said() -> None:
    item = policy("p", "shop", SERVICE)
    item["metadata"]["annotations"] = {names.DRY_RUN_ANNOTATION: "true"}
    item["status"] = {"conditions": [{"type": "WaypointAccepted", "status": "False", "message": "no provider x"}]}
    [found] = policies.at_waypoint([item], SCOPE)
    assert (found["dryRun"], found["problem"]) == (True, "no provider x")


WEB = {
    "uid": "web-1", "name": "web-1", "namespace": "shop", "protocol": "HBONE", "node": "n1",
    "trustDomain": "cluster.local", "serviceAccount": "web",
}  # fmt: skip
DOCUMENT = {
    "workloads": [WEB],
    "policies": [
        {"namespace": "shop", "name": "all", "scope": "Namespace", "action": "Allow"},
        {"namespace": "shop", "name": "own", "scope": "WorkloadSelector", "action": "Deny", "dryRun": True},
        {"namespace": "istio-system", "name": "mesh", "scope": "Global", "action": "Deny"},
        {"namespace": "dev", "name": "dev", "scope": "Namespace", "action": "Deny"},
        {
            "namespace": "istio-system",
            "name": names.STATIC_STRICT_POLICY,
            "scope": "WorkloadSelector",
            "action": "Deny",
        },
    ],
}


def test_policies_of_a_pod_are_those_of_mesh_and_namespace_and_its_own() -> None:
    assert [one["name"] for one in policies.at_ztunnel(DOCUMENT, WEB)] == ["istio-system/mesh", "shop/all"]
    chosen = {**WEB, "authorizationPolicies": ["shop/own", f"istio-system/{names.STATIC_STRICT_POLICY}"]}
    found = policies.at_ztunnel(DOCUMENT, chosen)
    assert [one["name"] for one in found] == ["istio-system/mesh", "shop/own", "shop/all"]
    assert [one.get("dryRun", False) for one in found] == [False, True, False]


@pytest.mark.parametrize(
    ("attached", "protocol", "found"),
    [
        ([], "HBONE", "PERMISSIVE"),
        ([f"istio-system/{names.STATIC_STRICT_POLICY}"], "HBONE", "STRICT"),
        ([f"shop/{names.CONVERTED_PEER_AUTHENTICATION_PREFIX}db"], "HBONE", "by port (PeerAuthentication shop/db)"),
        ([], "TCP", "DISABLE (not in the mesh)"),
    ],
)
def test_mutual_tls(attached: list[str], protocol: str, found: str) -> None:
    assert policies.mutual_tls({**WEB, "authorizationPolicies": attached, "protocol": protocol}) == found


def service(**more: Any) -> dict[str, Any]:
    return {
        "namespace": "shop", "name": "web", "hostname": "web.shop.svc.cluster.local", "ports": {"80": 8080},
        "endpoints": {"web-1": {"workloadUid": "web-1"}, "web-2": {"workloadUid": "web-2", "status": "Unhealthy"}},
        **more,
    }  # fmt: skip


def test_the_text_about_a_service_with_a_waypoint() -> None:
    way = {"destination": "infra/way.infra.svc.cluster.local", "hboneMtlsPort": 15008}
    document = facts.of_service(DOCUMENT, service(waypoint=way))
    document["routes"] = [{"port": "80", "match": "/a* +1", "from": "web.shop", "rule": "spec.http[0]", "to": "x"}]
    document["waypointPolicies"] = policies.at_waypoint([policy("b", "shop", SERVICE)], SCOPE)
    assert text.render(document).splitlines() == [
        "Service: shop/web",
        "Host: web.shop.svc.cluster.local",
        "Ports: 80 to 8080",
        "Healthy endpoints: 1 of 2",
        "Mutual TLS: PERMISSIVE",
        "Waypoint: infra/way",
        "Routes at the waypoint, in the order in which they are tried:",
        "  PORT   MATCH    FROM       RULE           TO",
        "  80     /a* +1   web.shop   spec.http[0]   x",
        "Policies at the waypoint, in the order in which they are evaluated:",
        "      ACTION   OBJECT                       PROBLEM",
        "  1   ALLOW    AuthorizationPolicy shop/b",
        "Policies at ztunnel, in the order in which they are evaluated:",
        "      ACTION   OBJECT                                  PROBLEM",
        "  1   DENY     AuthorizationPolicy istio-system/mesh",
        "  2   ALLOW    AuthorizationPolicy shop/all",
    ]


def test_the_text_about_a_service_whose_labels_have_no_effect() -> None:
    document = {**facts.of_service({}, service()), "waypointProblem": "waypoint shop/x does not exist"}
    lines = text.render(document).splitlines()
    assert lines[4:] == [
        "Mutual TLS: no endpoints",
        "Waypoint: none",
        "  not as labels ask: waypoint shop/x does not exist",
        "Policies at ztunnel, in the order in which they are evaluated: none",
    ]


def test_the_text_about_a_pod() -> None:
    document = facts.of_pod({"policies": []}, {**WEB, "services": ["shop/web.shop.svc.cluster.local"]})
    assert text.render(document).splitlines() == [
        "Pod: shop/web-1",
        "Node: n1",
        "Identity: spiffe://cluster.local/ns/shop/sa/web",
        "Services: shop/web.shop.svc.cluster.local",
        "Mutual TLS: PERMISSIVE",
        "Waypoint: none",
        "Policies at ztunnel, in the order in which they are evaluated: none",
    ]


def test_the_text_about_a_pod_with_a_waypoint() -> None:
    way = {"destination": "infra/way.infra.svc.cluster.local", "hboneMtlsPort": 15008}
    document = facts.of_pod({"policies": []}, {**WEB, "waypoint": way})
    gateway = (GATEWAY_GROUP, "Gateway", "way")
    items = [policy("a", "infra", gateway, action="DENY"), policy("b", "shop", SERVICE)]
    scope = policies.Scope(None, ("infra", "way"), "istio-system")
    document["waypointPolicies"] = policies.at_waypoint(items, scope)
    assert text.render(document).splitlines()[5:] == [
        "Waypoint: infra/way",
        "Policies at the waypoint, in the order in which they are evaluated:",
        "      ACTION   OBJECT                        PROBLEM",
        "  1   DENY     AuthorizationPolicy infra/a",
        "Policies at ztunnel, in the order in which they are evaluated: none",
    ]


def test_where_a_route_leads() -> None:
    actions: list[dict[str, Any]] = [
        {"route": {"weighted_clusters": {"clusters": [{"name": "a", "weight": 1}, {"name": "b", "weight": 3}]}}},
        {"redirect": {"host_redirect": "x"}},
        {"direct_response": {"status": 404}},
    ]
    hosts = [{"routes": [{"match": {"prefix": "/"}, **action} for action in actions]}]
    dump = Dump(routes=[{"name": "inbound-vip|80|http|h", "virtual_hosts": hosts}, {"name": "default"}])
    assert [one["to"] for one in facts.routes_of(dump, "h")] == ["a (1), b (3)", "redirect", "status 404"]
