"""The cluster's name server: CoreDNS as a Deployment, under the names that every cluster uses.

A lab has no way out, so names outside the cluster do not exist; they get that answer at once instead of a timeout.
"""

from collections.abc import Iterator
from typing import Any

from meshlab import images
from meshlab.plan import CLUSTER_DOMAIN, LabPlan

Resource = dict[str, Any]

NAMESPACE = "kube-system"
NAME = "coredns"
_LABELS = {"k8s-app": "kube-dns"}
# Two blocks, because inside one block CoreDNS runs `template` before `kubernetes`, whatever the order here.
_COREFILE = f"""{CLUSTER_DOMAIN}:53 in-addr.arpa:53 ip6.arpa:53 {{
    errors
    health
    ready
    kubernetes {CLUSTER_DOMAIN} in-addr.arpa ip6.arpa {{
        pods insecure
        ttl 5
    }}
    prometheus :9153
    reload
}}
.:53 {{
    errors
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
"""


def resources(lab: LabPlan) -> Iterator[Resource]:
    """Yield the resources in the order in which they are to be applied."""
    yield _resource("v1", "ServiceAccount")
    yield _resource(
        "rbac.authorization.k8s.io/v1",
        "ClusterRole",
        rules=[
            {
                "apiGroups": [""],
                "resources": ["endpoints", "services", "pods", "namespaces"],
                "verbs": ["list", "watch"],
            },
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
        ],
    )
    yield _resource(
        "rbac.authorization.k8s.io/v1",
        "ClusterRoleBinding",
        roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns"},
        subjects=[{"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}],
    )
    yield _resource("v1", "ConfigMap", data={"Corefile": _COREFILE})
    yield _resource("apps/v1", "Deployment", spec=_deployment())
    yield _resource("v1", "Service", spec=_service(lab))


def _resource(api_version: str, kind: str, **content: object) -> Resource:
    cluster_wide = kind.startswith("ClusterRole")
    name = "system:coredns" if cluster_wide else "kube-dns" if kind == "Service" else NAME
    metadata: Resource = {"name": name, "labels": _LABELS}
    if not cluster_wide:
        metadata["namespace"] = NAMESPACE
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **content}


def _deployment() -> Resource:
    container = {
        "name": NAME,
        "image": images.COREDNS,
        "imagePullPolicy": "IfNotPresent",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns", "readOnly": True}],
        "ports": [
            {"containerPort": 53, "name": "dns", "protocol": "UDP"},
            {"containerPort": 53, "name": "dns-tcp", "protocol": "TCP"},
            {"containerPort": 9153, "name": "metrics", "protocol": "TCP"},
        ],
        "resources": {"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"memory": "170Mi"}},
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
        "livenessProbe": {"httpGet": {"path": "/health", "port": 8080}, "initialDelaySeconds": 30},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    }
    return {
        "replicas": 1,
        "selector": {"matchLabels": _LABELS},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0}},
        "template": {
            "metadata": {"labels": _LABELS},
            "spec": {
                "serviceAccountName": NAME,
                "priorityClassName": "system-cluster-critical",
                "dnsPolicy": "Default",
                "tolerations": [{"operator": "Exists"}],
                "containers": [container],
                "volumes": [{"name": "config", "configMap": {"name": NAME}}],
            },
        },
    }


def _service(lab: LabPlan) -> Resource:
    addresses = [str(address) for address in lab.dns]
    return {
        "selector": _LABELS,
        "clusterIP": addresses[0],
        "clusterIPs": addresses,
        "ipFamilyPolicy": "RequireDualStack" if len(addresses) > 1 else "SingleStack",
        "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
            {"name": "metrics", "port": 9153, "protocol": "TCP", "targetPort": 9153},
        ],
    }
