"""``culvert describe``: what applies to a service or a pod, and why, as the proxies have it."""

import asyncio
import json
from typing import Annotated

import typer

from meshapi import names
from meshctl import pages, session
from meshctl.components import Part, is_ready
from meshctl.description import facts, policies, text
from meshctl.output import Form, Output, show
from meshctl.proxy_config import dump, sources
from meshctl.session import CommandError
from meshkit import kube
from meshkit.kube import Json, kinds

app = typer.Typer(help="What applies to a service or a pod: waypoint, routes, policies, mutual TLS.")

Name = Annotated[str, typer.Argument(help="NAME[.NAMESPACE].", show_default=False)]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="Where it is.")]
_BOUND = "istio.io/WaypointBound"
_NOT_READY = "no pod of it is ready: connections wait or fail"


@app.command()
def service(
    *,
    name: Name,
    namespace: Namespace = "default",
    output: Output = Form.TABLE,
    system_namespace: session.SystemNamespace = session.DEFAULT_NAMESPACE,
    kubeconfig: session.Kubeconfig = None,
    context: session.Context = None,
) -> None:
    """Show which waypoint, routes and policies apply to a service."""
    key = _key(name, namespace)
    found = session.run(
        "describe service",
        lambda client: of_service(client, key, system_namespace),
        kubeconfig=kubeconfig,
        context=context,
    )
    show(output, text.render(found), found)


@app.command()
def pod(
    *,
    name: Name,
    namespace: Namespace = "default",
    output: Output = Form.TABLE,
    system_namespace: session.SystemNamespace = session.DEFAULT_NAMESPACE,
    kubeconfig: session.Kubeconfig = None,
    context: session.Context = None,
) -> None:
    """Show which waypoint, policies and services apply to a pod."""
    key = _key(name, namespace)
    found = session.run(
        "describe pod",
        lambda client: of_pod(client, key, system_namespace),
        kubeconfig=kubeconfig,
        context=context,
    )
    show(output, text.render(found), found)


def _key(name: str, namespace: str) -> tuple[str, str]:
    """Return namespace and name of ``NAME[.NAMESPACE]``."""
    own, _, given = name.partition(".")
    return given or namespace, own


async def of_pod(client: kube.Client, key: tuple[str, str], system_namespace: str) -> Json:
    """Return what applies to a pod, by namespace and name. Raises ``CommandError``."""
    namespace, name = key
    node = (await sources.find_pod(client, sources.Target("pod", name, namespace)))["spec"].get("nodeName", "")
    document = await _ztunnel(client, system_namespace, node)
    found = facts.find(document["workloads"], namespace, name)
    if found is None:
        raise CommandError(f"ztunnel does not know pod {namespace}/{name}; see `culvert check`")
    made = facts.of_pod(document, found)
    waypoint = facts.waypoint_of(found)
    gateway = None if waypoint is None else await _gateway(client, waypoint)
    if waypoint is None:
        return made
    if gateway is None:
        return made | {"waypointProblem": _NOT_READY}
    items = await _policies(client, {waypoint[0], system_namespace})
    scope = policies.Scope(None, gateway, system_namespace)
    return made | {"waypointPolicies": policies.at_waypoint(items, scope)}


async def of_service(client: kube.Client, key: tuple[str, str], system_namespace: str) -> Json:
    """Return what applies to a service, by namespace and name. Raises ``CommandError``."""
    namespace, name = key
    item = await client.find(kinds.SERVICE, name, namespace)
    if item is None:
        raise CommandError(f"there is no service {namespace}/{name}")
    document = await _ztunnel(client, system_namespace)
    found = facts.find(document["services"], namespace, name)
    if found is None:
        raise CommandError(f"ztunnels do not know service {namespace}/{name}; see `culvert proxy-status`")
    made = facts.of_service(document, found)
    if problem := policies.condition_problem(item, _BOUND):
        made["waypointProblem"] = problem
    waypoint = facts.waypoint_of(found)
    return made if waypoint is None else made | await _at_waypoint(client, key, found, waypoint, system_namespace)


async def _at_waypoint(
    client: kube.Client, key: tuple[str, str], found: dump.Item, waypoint: tuple[str, str], root_namespace: str
) -> Json:
    """Return the routes and policies that a service's waypoint has for it."""
    proxy = await _waypoint_pod(client, waypoint)
    if proxy is None:
        return {"waypointProblem": _NOT_READY}
    gateway = _gateway_of(proxy, waypoint)
    config, items = await asyncio.gather(
        sources.envoy_page(client, proxy, "/config_dump"), _policies(client, {key[0], waypoint[0], root_namespace})
    )
    return {
        "routes": facts.routes_of(dump.read(json.loads(config)), found.get("hostname", "")),
        "waypointPolicies": policies.at_waypoint(items, policies.Scope(key, gateway, root_namespace)),
    }


async def _gateway(client: kube.Client, waypoint: tuple[str, str]) -> tuple[str, str] | None:
    """Return the Gateway of a waypoint's service; ``None``: no pod of it is ready."""
    proxy = await _waypoint_pod(client, waypoint)
    return None if proxy is None else _gateway_of(proxy, waypoint)


def _gateway_of(proxy: Json, waypoint: tuple[str, str]) -> tuple[str, str]:
    return (waypoint[0], proxy["metadata"]["labels"].get(names.GATEWAY_NAME_LABEL, waypoint[1]))


async def _policies(client: kube.Client, namespaces: set[str]) -> list[Json]:
    return [
        {**one, "kind": kind.name}  # the items of a list do not say it
        for kind in (kinds.REQUEST_AUTHENTICATION, kinds.AUTHORIZATION_POLICY)
        for namespace in sorted(namespaces)
        for one in await client.items(kind, namespace)
    ]


async def _waypoint_pod(client: kube.Client, waypoint: tuple[str, str]) -> Json | None:
    namespace, name = waypoint
    item = await client.find(kinds.SERVICE, name, namespace)
    selector = ",".join(f"{key}={value}" for key, value in ((item or {}).get("spec") or {}).get("selector", {}).items())
    pods = await client.items(kinds.POD, namespace, {"labelSelector": selector}) if selector else []
    return next(filter(is_ready, pods), None)


async def _ztunnel(client: kube.Client, system_namespace: str, node: str = "") -> Json:
    """Return the dump of a node's ztunnel, or of any."""
    found = await pages.processes(client, system_namespace, Part.ZTUNNEL)
    ready = [one for one in found if one.ready and node in ("", one.node)]
    if not ready:
        raise CommandError(f"no ztunnel is ready{f' on node {node}' if node else ''}; see `culvert status`")
    return await pages.config_dump(client, ready[0])
