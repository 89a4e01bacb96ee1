"""Objects to be applied on a lab, as text. Names are those of the label ``app``."""

import base64
import json
from typing import Any

Json = dict[str, Any]
WEB = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: DoNotSchedule
          labelSelector: {matchLabels: {app: web}}
      containers:
        - name: web
          image: localhost/culvert/samples:1
          command: ["python3", "-m", "app.httpbin"]
          readinessProbe: {httpGet: {path: /ip, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
"""
"""A web server on each of two nodes."""


def item(kind: str, version: str, name: str, **spec: Any) -> str:
    """An object that has a spec."""
    return json.dumps({"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec})


def config_map(name: str, data: dict[str, str]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})


def tls_secret(name: str, chain: bytes, key: bytes) -> str:
    """A Secret with a certificate and its key, PEM."""
    data = {part: base64.b64encode(value).decode() for part, value in (("tls.crt", chain), ("tls.key", key))}
    head = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": name}}
    return json.dumps({**head, "data": data})


def service(name: str, ports: dict[str, int]) -> str:
    """A Service for the pods of a name."""
    listed = [{"name": port, "port": number} for port, number in ports.items()]
    return item("Service", "v1", name, selector={"app": name}, ports=listed)


def deployment(name: str, container: Json, *, replicas: int = 1, **pod: Any) -> str:
    """A Deployment of one container; ``pod`` has more of its pods. A rollout starts a new pod first.

    Pods end soon, because most of their programs do not listen to SIGTERM.
    """
    labels = {"app": name}
    whole = {"name": name, "imagePullPolicy": "IfNotPresent", **container}
    return item(
        "Deployment",
        "apps/v1",
        name,
        replicas=replicas,
        selector={"matchLabels": labels},
        template={
            "metadata": {"labels": labels},
            "spec": {"containers": [whole], "terminationGracePeriodSeconds": 2, **pod},
        },
        strategy={"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
    )
