"""The gateways of Istio's profile ``demo``: releases of the chart ``gateway`` beside the mesh's own.

Names, labels and ports are Istio's. What is true for the whole mesh they have from the mesh's release: images, trust
domain, names of the cluster.
"""

import json
from collections.abc import Iterable
from enum import Enum
from pathlib import Path

from meshapi import names
from meshctl import chart
from meshkit import kube
from meshkit.kube import Json, kinds


class Demo(Enum):
    """A gateway of the profile: its release, the type of its Service, and the Service's ports."""

    INGRESS = (
        "istio-ingressgateway",
        "LoadBalancer",
        (
            ("status-port", names.READINESS_PORT, names.READINESS_PORT),
            ("http2", 80, 8080),
            ("https", 443, 8443),
            ("tcp", 31400, 31400),
            ("tls", 15443, 15443),
        ),
    )
    EGRESS = ("istio-egressgateway", "ClusterIP", (("http2", 80, 8080), ("https", 443, 8443)))

    def __init__(self, release: str, service: str, ports: tuple[tuple[str, int, int], ...]) -> None:
        self.release = release
        self.service = service
        self.ports = ports


def values_of(demo: Demo, installed: Json, namespace: str) -> Json:
    """Return the values of a gateway's release.

    Args:
        demo: the gateway.
        installed: all values of the mesh's release.
        namespace: of the control plane.
    """
    image, own = installed["image"], installed["waypoint"]["image"]
    cluster = installed["cluster"]
    return {
        "image": {"repository": own["repository"], "tag": own.get("tag") or image.get("tag") or ""},
        "imagePullPolicy": image["pullPolicy"],
        "imagePullSecrets": list(image.get("pullSecrets") or ()),
        "global": {
            "istioNamespace": namespace,
            "trustDomain": installed["meshConfig"].get("trustDomain") or names.DEFAULT_TRUST_DOMAIN,
            "multiCluster": {"clusterName": cluster["id"]},
            "proxy": {"clusterDomain": cluster["domain"]},
        },
        "service": {
            "type": demo.service,
            "ports": [
                {"name": name, "port": port, "targetPort": target, "protocol": "TCP"}
                for name, port, target in demo.ports
            ],
        },
        "autoscaling": {"enabled": False},
    }


async def install(helm: Path, namespace: str, *, kubeconfig: Path | None, context: str | None) -> None:
    """Install the gateways of the profile, or bring them to this version.

    Raises:
        CommandError: Helm fails.
    """
    asked = ["get", "values", chart.RELEASE, "--all", "--output=json", f"--namespace={namespace}"]
    installed = json.loads(await chart.helm(helm, asked, kubeconfig=kubeconfig, context=context))
    for demo in Demo:
        arguments = ["upgrade", "--install", demo.release, str(chart.gateway_folder()), f"--namespace={namespace}"]
        text = json.dumps(values_of(demo, installed, namespace))
        arguments += ["--reset-values", "--values=-"]
        await chart.helm(helm, arguments, kubeconfig=kubeconfig, context=context, given=text)


async def releases(helm: Path, namespace: str, *, kubeconfig: Path | None, context: str | None) -> list[str]:
    """Return the releases of the profile's gateways that are installed.

    Raises:
        CommandError: Helm fails.
    """
    asked = ["list", "--all", "--short", f"--namespace={namespace}"]
    found = (await chart.helm(helm, asked, kubeconfig=kubeconfig, context=context)).split()
    return [demo.release for demo in Demo if demo.release in found]


async def unready(client: kube.Client, namespace: str, gateways: Iterable[str]) -> list[str]:
    """Return what the Deployments of gateways lack."""
    lacking = []
    for name in gateways:
        item = await client.find(kinds.DEPLOYMENT, name, namespace)
        if fault := fault_of(item):
            lacking.append(f"gateway {name} ({fault})")
    return lacking


def fault_of(item: Json | None) -> str:
    """Return what a gateway's Deployment lacks; empty: nothing."""
    if item is None:
        return "not found"
    status = item.get("status") or {}
    desired = int(item["spec"].get("replicas", 1))
    seen = status.get("observedGeneration", 0) >= item["metadata"].get("generation", 0)
    ready = min(status.get("updatedReplicas", 0), status.get("availableReplicas", 0)) if seen else 0
    return "" if ready >= desired and seen else f"{ready} of {desired} pods are ready"
