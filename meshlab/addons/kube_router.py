"""kube-router, which enforces NetworkPolicies on every node; the lab's own CNI plugin does not.

Only its firewall runs: routes stay the lab's, Services stay kube-proxy's.
"""

from collections.abc import Iterator

from meshapi import names
from meshlab import images
from meshlab.api import Resource

NAME = "kube-router"
ABOUT = "kube-router, which enforces NetworkPolicies"
NAMESPACE = "kube-system"

_LABELS = {"app": NAME}
_READ = {"verbs": ["get", "list", "watch"]}


def resources() -> Iterator[Resource]:
    """Yield the resources in the order in which they are to be applied."""
    yield _resource("v1", "ServiceAccount")
    yield _resource(
        "rbac.authorization.k8s.io/v1",
        "ClusterRole",
        rules=[
            {"apiGroups": [""], "resources": ["namespaces", "pods", "services", "nodes", "endpoints"], **_READ},
            {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], **_READ},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], **_READ},
        ],
    )
    yield _resource(
        "rbac.authorization.k8s.io/v1",
        "ClusterRoleBinding",
        roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": NAME},
        subjects=[{"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}],
    )
    yield _resource("apps/v1", "DaemonSet", spec=_daemon_set())


def _resource(api_version: str, kind: str, **content: object) -> Resource:
    metadata: Resource = {"name": NAME, "labels": _LABELS}
    if not kind.startswith("ClusterRole"):
        metadata["namespace"] = NAMESPACE
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **content}


def _daemon_set() -> Resource:
    container = {
        "name": NAME,
        "image": images.KUBE_ROUTER,
        "imagePullPolicy": "IfNotPresent",
        "args": [
            "--run-firewall=true",
            "--run-router=false",
            "--run-service-proxy=false",
            "--run-loadbalancer=false",
            "--enable-cni=false",
            "--iptables-sync-period=10s",
        ],
        "env": [{"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": 20244}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
        "securityContext": {"privileged": True},
        "volumeMounts": [{"name": "xtables-lock", "mountPath": names.XTABLES_LOCK}],
    }
    return {
        "selector": {"matchLabels": _LABELS},
        "template": {
            "metadata": {"labels": _LABELS},
            "spec": {
                "serviceAccountName": NAME,
                "hostNetwork": True,
                "priorityClassName": "system-node-critical",
                "tolerations": [{"operator": "Exists"}],
                "containers": [container],
                "volumes": [{"name": "xtables-lock", "hostPath": {"path": names.XTABLES_LOCK, "type": "FileOrCreate"}}],
            },
        },
    }
