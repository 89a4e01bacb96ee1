"""What each component may do in the cluster, and what the API server asks the control plane."""

from pathlib import Path
from typing import Any

import pytest

from meshapi import names
from meshapi.selectors import LabelSelector
from meshkit.kube import kinds
from tests.support.chart import Objects, pod, template

GATEWAY_GROUP = kinds.GATEWAY.group
ISTIO_KINDS = (
    *(
        ("security.istio.io", name)
        for name in ("authorizationpolicies", "peerauthentications", "requestauthentications")
    ),
    *(
        ("networking.istio.io", name)
        for name in (
            "serviceentries",
            "workloadentries",
            "gateways",
            "virtualservices",
            "destinationrules",
            "sidecars",
            "workloadgroups",
            "envoyfilters",
            "proxyconfigs",
        )
    ),
    ("extensions.istio.io", "wasmplugins"),
    ("telemetry.istio.io", "telemetries"),
)
GATEWAY_STATUS = (
    "gateways",
    "gatewayclasses",
    "listenersets",
    "httproutes",
    "grpcroutes",
    "tcproutes",
    "tlsroutes",
    "udproutes",
    "backendtlspolicies",
)
GATEWAY_KINDS = (*GATEWAY_STATUS, "referencegrants")
WITH_STATUS = (
    *ISTIO_KINDS,
    ("", "services"),
    ("networking.k8s.io", "ingresses"),
    *((GATEWAY_GROUP, name) for name in GATEWAY_STATUS),
    ("gateway.networking.x-k8s.io", "xbackendtrafficpolicies"),
)
VALIDATOR = f"{names.VALIDATOR_PREFIX}istio-system"
WEBHOOK_GROUP = "admissionregistration.k8s.io"


def test_rights_are_the_least(objects: Objects) -> None:
    def rules(kind: str, name: str) -> set[tuple[str, str, str, str]]:
        return {
            (group, resource, verb, ",".join(rule.get("resourceNames", [])))
            for rule in objects[kind, name]["rules"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
        }

    def read(*resources: tuple[str, str], only: str = "") -> set[tuple[str, str, str, str]]:
        return {(group, name, verb, only) for group, name in resources for verb in ("get", "list", "watch")}

    root = names.ROOT_CERT_CONFIGMAP
    assert rules("ClusterRole", "culvert-control-plane-istio-system") == {
        *read(("", "pods"), ("", "services"), ("", "namespaces"), ("", "nodes")),
        *read(("discovery.k8s.io", "endpointslices")),
        *read(*(("networking.k8s.io", name) for name in ("ingresses", "ingressclasses"))),
        *read(("gateway.networking.x-k8s.io", "xbackendtrafficpolicies")),
        *read(*ISTIO_KINDS, *((GATEWAY_GROUP, name) for name in GATEWAY_KINDS)),
        *read(("", "configmaps"), only=root),
        *read(("", "configmaps"), only=names.CRL_CONFIGMAP),
        *((group, f"{name}/status", "patch", "") for group, name in WITH_STATUS),
        *((GATEWAY_GROUP, "gatewayclasses", verb, "") for verb in ("create", "patch")),
        (GATEWAY_GROUP, "gateways", "create", ""),
        *((GATEWAY_GROUP, "gateways", verb, names.AUTOMATIC_WAYPOINT) for verb in ("patch", "delete")),
        *(("apps", "deployments", verb, "") for verb in ("get", "list", "watch", "create", "patch")),
        *(("", name, verb, "") for name in ("services", "serviceaccounts") for verb in ("get", "create", "patch")),
        *(("autoscaling", "horizontalpodautoscalers", verb, "") for verb in ("get", "create", "patch", "delete")),
        *(("policy", "poddisruptionbudgets", verb, "") for verb in ("get", "create", "patch", "delete")),
        ("", "configmaps", "get", ""),
        *read(("", "secrets")),
        *(("events.k8s.io", "events", verb, "") for verb in ("create", "get", "patch")),
        ("", "configmaps", "patch", root),
        ("", "configmaps", "patch", names.CRL_CONFIGMAP),
        ("", "configmaps", "delete", names.CRL_CONFIGMAP),
        ("", "configmaps", "create", ""),
        ("authentication.k8s.io", "tokenreviews", "create", ""),
        *read((WEBHOOK_GROUP, "validatingwebhookconfigurations"), only=VALIDATOR),
        (WEBHOOK_GROUP, "validatingwebhookconfigurations", "patch", VALIDATOR),
        *read((WEBHOOK_GROUP, "mutatingwebhookconfigurations"), only=names.INJECTOR),
        (WEBHOOK_GROUP, "mutatingwebhookconfigurations", "patch", names.INJECTOR),
    }
    assert rules("Role", "culvert-control-plane") == {
        ("", "configmaps", "list", ""),
        *read(("", "configmaps"), only=names.MESH_CONFIGMAP),
        *read(("", "configmaps"), only=names.REJECTIONS_CONFIGMAP),
        ("", "configmaps", "patch", names.REJECTIONS_CONFIGMAP),
        ("", "secrets", "get", f"{names.CACERTS_SECRET},{names.CA_SECRET}"),
        ("", "secrets", "create", ""),
        ("coordination.k8s.io", "leases", "get", names.CONTROL_PLANE_LEASE),
        ("coordination.k8s.io", "leases", "update", names.CONTROL_PLANE_LEASE),
        ("coordination.k8s.io", "leases", "create", ""),
    }
    assert rules("ClusterRole", "istio-cni-istio-system") == {
        *read(("", "pods"), ("", "namespaces")),
        ("", "pods/status", "patch", ""),
    }
    assert rules("Role", "istio-cni") == {("apps", "daemonsets", "get", names.NODE_AGENT_DAEMON_SET)}


def test_ztunnel_has_no_rights_at_all(objects: Objects) -> None:
    bound = {
        subject["name"]
        for (kind, _), item in objects.items()
        if kind in ("ClusterRoleBinding", "RoleBinding")
        for subject in item["subjects"]
    }
    assert names.ZTUNNEL_SERVICE_ACCOUNT not in bound
    assert pod(objects, "DaemonSet", "ztunnel")["automountServiceAccountToken"] is False


def test_objects_of_the_mesh_are_validated_by_the_control_plane_unless_that_is_turned_off(
    helm: Path, objects: Objects
) -> None:
    configuration = objects["ValidatingWebhookConfiguration", VALIDATOR]
    selected = [one["objectSelector"]["matchExpressions"] for one in configuration["webhooks"]]
    assert sorted(one["operator"] for [one] in selected) == ["DoesNotExist", "In"]
    for webhook in configuration["webhooks"]:
        service = webhook["clientConfig"]["service"]
        assert (service["name"], service["path"]) == (names.CONTROL_PLANE_SERVICE, "/validate")
        assert webhook["failurePolicy"] == "Ignore", "an installation works before the control plane does"
    ports = pod(objects, "Deployment", "istiod")["containers"][0]["ports"]
    assert {"name": "https-webhook", "containerPort": names.CONTROL_PLANE_WEBHOOK_PORT} in ports
    without = template(helm, "controlPlane.configValidation=false")
    assert ("ValidatingWebhookConfiguration", VALIDATOR) not in without


def asks(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether the API server asks about a pod with these labels."""
    return LabelSelector.model_validate(selector).matches(labels)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({names.INJECT_LABEL: "true"}, True),
        ({"istio.io/rev": "default"}, True),
        ({"istio.io/rev": "default", names.INJECT_LABEL: "true"}, True),
        ({"istio.io/rev": "default", names.INJECT_LABEL: "false"}, False),
        ({"istio.io/rev": "canary", names.INJECT_LABEL: "true"}, False),
        ({names.INJECT_LABEL: "false"}, False),
        ({"app": "web"}, False),
    ],
)
def test_only_pods_that_ask_for_injection_are_asked_about(
    objects: Objects, labels: dict[str, str], expected: bool
) -> None:
    webhooks = objects["MutatingWebhookConfiguration", names.INJECTOR]["webhooks"]
    assert sum(asks(one["objectSelector"], labels) for one in webhooks) == expected


def test_injection_fails_closed_and_never_stands_in_the_way_of_the_meshs_own_pods(helm: Path, objects: Objects) -> None:
    webhooks = objects["MutatingWebhookConfiguration", names.INJECTOR]["webhooks"]
    for webhook in webhooks:
        service = webhook["clientConfig"]["service"]
        assert (service["name"], service["path"]) == (names.CONTROL_PLANE_SERVICE, "/inject")
        assert webhook["failurePolicy"] == "Fail", "an image called auto is no good"
        assert webhook["rules"][0]["resources"] == ["pods"]
    templates = [one["spec"]["template"] for (kind, _), one in objects.items() if kind in {"Deployment", "DaemonSet"}]
    assert len(templates) == 3
    for found in templates:
        assert not any(asks(one["objectSelector"], found["metadata"]["labels"]) for one in webhooks)
    without = template(helm, "controlPlane.gatewayInjection=false")
    assert ("MutatingWebhookConfiguration", names.INJECTOR) not in without
    other = template(helm, namespace="mesh")
    assert ("MutatingWebhookConfiguration", f"{names.INJECTOR}-mesh") in other
    rules = other["ClusterRole", "culvert-control-plane-mesh"]["rules"]
    assert [f"{names.INJECTOR}-mesh"] in [one.get("resourceNames") for one in rules]
