"""Prometheus, which scrapes every pod with the annotations ``prometheus.io/scrape``, ``port``, ``path``.

What it remembers goes with its pod.
"""

import hashlib
import json
from collections.abc import Iterator

from meshlab import images
from meshlab.api import Resource

NAME = "prometheus"
ABOUT = "Prometheus, which scrapes pods with the annotation prometheus.io/scrape every 5 seconds"
NAMESPACE = "monitoring"
PORT = 9090

_LABELS = {"app": NAME}
_META = "__meta_kubernetes_"
_ANNOTATION = f"{_META}pod_annotation_prometheus_io_"

# Prometheus reads YAML, of which JSON is a part.
_CONFIG = json.dumps(
    {
        "global": {"scrape_interval": "5s", "evaluation_interval": "5s"},
        "scrape_configs": [
            {
                "job_name": "pods",
                "kubernetes_sd_configs": [{"role": "pod"}],
                "relabel_configs": [
                    {"action": "keep", "source_labels": [f"{_ANNOTATION}scrape"], "regex": "true"},
                    {"action": "keep", "source_labels": [f"{_META}pod_phase"], "regex": "Running"},
                    {"source_labels": [f"{_ANNOTATION}scheme"], "regex": "(https?)", "target_label": "__scheme__"},
                    {"source_labels": [f"{_ANNOTATION}path"], "regex": "(.+)", "target_label": "__metrics_path__"},
                    # The annotated port, whichever ports the containers declare: those give equal targets.
                    *(
                        {
                            "source_labels": [f"{_META}pod_ip", f"{_ANNOTATION}port"],
                            "regex": f"{address};([0-9]+)",
                            "replacement": replacement,
                            "target_label": "__address__",
                        }
                        for address, replacement in (("([0-9.]+)", "$1:$2"), ("(.*:.*)", "[$1]:$2"))
                    ),
                    *(
                        {"source_labels": [f"{_META}{source}"], "target_label": target}
                        for source, target in (
                            ("namespace", "namespace"),
                            ("pod_name", "pod"),
                            ("pod_node_name", "node"),
                            ("pod_label_app", "app"),
                        )
                    ),
                ],
            }
        ],
    },
    indent=2,
)


def resources() -> Iterator[Resource]:
    """Yield the resources in the order in which they are to be applied."""
    yield {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    yield _resource("v1", "ServiceAccount")
    yield _resource(
        "rbac.authorization.k8s.io/v1",
        "ClusterRole",
        rules=[{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}],
    )
    yield _resource(
        "rbac.authorization.k8s.io/v1",
        "ClusterRoleBinding",
        roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": NAME},
        subjects=[{"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}],
    )
    yield _resource("v1", "ConfigMap", data={"prometheus.yml": _CONFIG})
    yield _resource("apps/v1", "Deployment", spec=_deployment())
    # A port of the nodes, since those are reached from this computer.
    ports = [{"name": "http", "port": PORT, "targetPort": PORT}]
    yield _resource("v1", "Service", spec={"type": "NodePort", "selector": _LABELS, "ports": ports})


def _resource(api_version: str, kind: str, **content: object) -> Resource:
    metadata: Resource = {"name": NAME, "labels": _LABELS}
    if not kind.startswith("ClusterRole"):
        metadata["namespace"] = NAMESPACE
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **content}


def _deployment() -> Resource:
    container = {
        "name": NAME,
        "image": images.PROMETHEUS,
        "imagePullPolicy": "IfNotPresent",
        "args": [
            "--config.file=/etc/prometheus/prometheus.yml",
            "--storage.tsdb.path=/data",
            "--storage.tsdb.retention.time=1d",
        ],
        "volumeMounts": [
            {"name": "config", "mountPath": "/etc/prometheus", "readOnly": True},
            {"name": "data", "mountPath": "/data"},
        ],
        "ports": [{"containerPort": PORT, "name": "http"}],
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}},
        "readinessProbe": {"httpGet": {"path": "/-/ready", "port": PORT}, "periodSeconds": 1},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    }
    annotations = {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(PORT),
        # Another configuration is another pod.
        "checksum/config": hashlib.sha256(_CONFIG.encode()).hexdigest(),
    }
    return {
        "replicas": 1,
        "selector": {"matchLabels": _LABELS},
        "strategy": {"type": "Recreate"},
        "template": {
            "metadata": {"labels": _LABELS, "annotations": annotations},
            "spec": {
                "serviceAccountName": NAME,
                "securityContext": {"runAsNonRoot": True, "runAsUser": 65534, "fsGroup": 65534},
                "containers": [container],
                "volumes": [{"name": "config", "configMap": {"name": NAME}}, {"name": "data", "emptyDir": {}}],
            },
        },
    }
