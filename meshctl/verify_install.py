"""``culvert verify-install``: whether everything that was installed is there and ready, a line for each object.

The command and its lines are ``istioctl``'s. What was installed is what Helm's release says: the chart with the values
of that installation.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Final

import typer
import yaml

from meshapi import names
from meshctl import chart, edge, session
from meshctl.components import Part, readiness
from meshctl.session import CommandError
from meshkit import kube
from meshkit.kube import Json, Kind, kinds

_RBAC: Final = "rbac.authorization.k8s.io"
_KINDS: Final[dict[tuple[str, str], Kind]] = {
    (kind.group, kind.name): kind
    for kind in (
        *(value for value in vars(kinds).values() if isinstance(value, Kind)),
        Kind(_RBAC, "v1", "Role", "roles"),
        Kind(_RBAC, "v1", "RoleBinding", "rolebindings"),
        Kind(_RBAC, "v1", "ClusterRole", "clusterroles", namespaced=False),
        Kind(_RBAC, "v1", "ClusterRoleBinding", "clusterrolebindings", namespaced=False),
    )
}
_PARTS: Final = {(part.kind, part.object_name): part for part in Part}


def verify_install(
    *,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Where it is.")] = names.DEFAULT_NAMESPACE,
    helm: Annotated[Path | None, typer.Option(help="The program helm, if it is not on the PATH.")] = None,
    kubeconfig: session.Kubeconfig = None,
    context: session.Context = None,
) -> None:
    """Check every object of the installation; status 1 if one is missing or not ready."""
    try:
        program = chart.find_helm(helm)
    except CommandError as error:
        session.fail("verify-install", str(error))

    async def work(client: kube.Client) -> list[str]:
        gateways = await edge.releases(program, namespace, kubeconfig=kubeconfig, context=context)
        installed: list[Json] = []
        for release in (chart.RELEASE, *gateways):
            arguments = ["get", "manifest", release, f"--namespace={namespace}"]
            manifest = await chart.helm(program, arguments, kubeconfig=kubeconfig, context=context)
            installed += [item for item in yaml.safe_load_all(manifest) if item]
        wrong = []
        for item in (*chart.definitions(chart.folder()), *installed):
            fault = await _fault(client, item, namespace)
            typer.echo(line(item, namespace, fault))
            wrong += [fault] if fault else []
        return wrong

    if wrong := session.run("verify-install", work, kubeconfig=kubeconfig, context=context):
        session.fail("verify-install", f"{len(wrong)} objects are missing or not ready; see the lines with ✘")
    typer.echo("✔ Culvert is installed and verified successfully")


def line(item: Json, namespace: str, fault: str) -> str:
    """Return the line of an object; ``fault``: what is wrong with it, or nothing."""
    metadata = item["metadata"]
    kind = _KINDS.get(_kind_of(item))
    where = f".{metadata.get('namespace', namespace)}" if kind is None or kind.namespaced else ""
    shown = f"{item['kind']}: {metadata['name']}{where}"
    return f"✘ {shown}: {fault}" if fault else f"✔ {shown} checked successfully"


def fault_of(item: Json, held: Json | None) -> str:
    """Return what is wrong with an installed object; empty: nothing.

    Args:
        item: as it was installed.
        held: as the cluster has it; ``None``: it does not.
    """
    if held is None:
        return "not found"
    kind = _KINDS.get(_kind_of(item))
    if kind is kinds.CUSTOM_RESOURCE_DEFINITION:
        return "" if _has_condition(held, "Established") else "not established"
    part = None if kind is None else _PARTS.get((kind, item["metadata"]["name"]))
    if part is None:
        return edge.fault_of(held) if kind is kinds.DEPLOYMENT else ""
    found = readiness(part, held)
    return "" if found.complete else f"{found.ready} of {found.desired} pods are ready"


async def _fault(client: kube.Client, item: Json, namespace: str) -> str:
    kind = _KINDS.get(_kind_of(item))
    if kind is None:
        return f"kind {item.get('apiVersion')} {item['kind']} is not known to this version of culvert"
    metadata = item["metadata"]
    where = metadata.get("namespace", namespace) if kind.namespaced else None
    return fault_of(item, await client.find(kind, metadata["name"], where))


def _kind_of(item: Json) -> tuple[str, str]:
    group, _, version = str(item.get("apiVersion", "")).rpartition("/")
    return (group if version else "", str(item["kind"]))


def _has_condition(item: Json, kind: str) -> bool:
    conditions: Iterable[Json] = (item.get("status") or {}).get("conditions") or ()
    return any(one["type"] == kind and one["status"] == "True" for one in conditions)
