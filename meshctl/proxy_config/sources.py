"""Which proxy answers for a pod, and its pages: its own Envoy, or the ztunnel of its node."""

import asyncio
import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from meshapi import names
from meshctl import pages
from meshctl.components import Part, captured, is_gateway, is_ready
from meshctl.proxy_config import dump, ztunnels
from meshctl.proxy_config.dump import Dump
from meshctl.session import CommandError
from meshkit import kube
from meshkit.kube import Json, kinds

_POD_TYPES: Final = frozenset({"pod", "pods", "po"})
_DEPLOYMENT_TYPES: Final = frozenset({"deployment", "deployments", "deploy"})


class Proxy(StrEnum):
    """What proxy a pod has."""

    OWN = "its own Envoy"
    ZTUNNEL = "the ztunnel of its node"


@dataclass(frozen=True, slots=True)
class Target:
    """What the user has named: ``[TYPE/]NAME[.NAMESPACE]``."""

    type: str
    name: str
    namespace: str


def target(text: str, namespace: str) -> Target:
    """Return what is named.

    Args:
        text: as ``web-1``, ``web-1.shop``, ``deploy/web`` or ``deploy/web.shop``.
        namespace: where it is unless ``text`` says so.

    Raises:
        CommandError: it names something else than a pod or a Deployment.
    """
    kind, slash, rest = text.partition("/")
    if not slash:
        kind, rest = "pod", text
    if kind not in _POD_TYPES | _DEPLOYMENT_TYPES:
        raise CommandError(f"{text}: {kind} is neither pod nor deployment")
    name, _, given = rest.partition(".")
    if not name:
        raise CommandError(f"{text}: a name is missing")
    return Target("pod" if kind in _POD_TYPES else "deployment", name, given or namespace)


async def find_pod(client: kube.Client, wanted: Target) -> Json:
    """Return a pod: the one that is named, or one of a Deployment's, a ready one if there is one.

    Raises:
        CommandError: there is none.
    """
    if wanted.type == "pod":
        found = await client.find(kinds.POD, wanted.name, wanted.namespace)
        if found is None:
            raise CommandError(f"there is no pod {wanted.namespace}/{wanted.name}")
        return found
    held = await client.find(kinds.DEPLOYMENT, wanted.name, wanted.namespace)
    if held is None:
        raise CommandError(f"there is no deployment {wanted.namespace}/{wanted.name}")
    labels = held["spec"]["selector"].get("matchLabels") or {}
    selector = ",".join(f"{name}={value}" for name, value in sorted(labels.items()))
    pods = await client.items(kinds.POD, wanted.namespace, {"labelSelector": selector})
    if not pods:
        raise CommandError(f"deployment {wanted.namespace}/{wanted.name} has no pods")
    return min(pods, key=lambda one: (not is_ready(one), one["metadata"]["name"]))


def proxy_of(pod: Json) -> Proxy:
    """Return what proxy a pod has.

    Raises:
        CommandError: none.
    """
    labels = pod["metadata"].get("labels") or {}
    if labels.get(names.GATEWAY_MANAGED_LABEL) in names.MANAGED_PROXIES or is_gateway(pod):
        return Proxy.OWN
    if captured([pod]):
        return Proxy.ZTUNNEL
    raise CommandError(f"pod {_title(pod)} has no proxy: it is no waypoint or gateway, and not in the mesh")


async def from_cluster(client: kube.Client, wanted: Target, system_namespace: str) -> tuple[Dump, Proxy]:
    """Return what the proxy of a pod has. Raises ``CommandError``."""
    pod = await find_pod(client, wanted)
    proxy = proxy_of(pod)
    if proxy is Proxy.OWN:
        config, clusters = await asyncio.gather(
            envoy_page(client, pod, "/config_dump"), envoy_page(client, pod, "/clusters?format=json")
        )
        return dump.read(json.loads(config), json.loads(clusters)), proxy
    node, spec = pod["spec"].get("nodeName", ""), pod["spec"]
    found = [one for one in await pages.processes(client, system_namespace, Part.ZTUNNEL) if one.node == node]
    if not found:
        raise CommandError(f"there is no ztunnel on node {node} of pod {_title(pod)}")
    process = next((one for one in found if one.ready), found[0])
    served = ztunnels.Pod(pod["metadata"]["namespace"], spec.get("serviceAccountName") or "default")
    return ztunnels.read(await pages.config_dump(client, process), served), proxy


async def envoy_page(client: kube.Client, pod: Json, path: str, *, method: str = "GET") -> bytes:
    """Return one of Envoy's admin pages. Raises ``CommandError``."""
    metadata = pod["metadata"]
    where = kube.Port(metadata["namespace"], metadata["name"], names.ENVOY_ADMIN_PORT)
    return await pages.page_of(client, where, path, method=method)


def from_file(file: Path) -> Dump:
    """Return what a saved page says: ``/config_dump``, or ``/clusters?format=json`` for endpoints.

    Raises:
        CommandError: it cannot be read.
    """
    try:
        document: Any = json.loads(file.read_bytes())
        return dump.read(document if isinstance(document, dict) else {})
    except (OSError, ValueError) as error:
        raise CommandError(f"{file}: {error}") from error


def _title(pod: Json) -> str:
    return f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
