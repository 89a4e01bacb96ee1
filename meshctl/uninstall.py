"""``culvert uninstall``: takes everything back, nodes included.

Order: the node agent first and alone, while the control plane and its own rights are still there. At its end it lets
every pod go and takes its plugin out of the nodes' CNI configuration. Then the rest.
"""

from pathlib import Path
from typing import Annotated, Final

import typer

from meshapi import names
from meshctl import chart, components, edge, session, waiting
from meshctl.components import Part
from meshctl.install import MADE_BY_US
from meshctl.session import CommandError
from meshkit import kube
from meshkit.kube import Kind, kinds

_PART_OF_US: Final = {"labelSelector": "app.kubernetes.io/part-of=culvert"}
_STREAMS_GRACE_S: Final = 30
"""What connections that are still open in a tunnel get to end."""


def uninstall(
    *,
    purge: Annotated[
        bool,
        typer.Option(
            "--purge",
            help="Remove the custom resource definitions (with every policy in the cluster), the self-made signing "
            "key and the roots in all namespaces too.",
        ),
    ] = False,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Where it is.")] = names.DEFAULT_NAMESPACE,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Longest wait, in seconds.", min=1)] = 180.0,
    helm: Annotated[Path | None, typer.Option(help="The program helm, if it is not on the PATH.")] = None,
    yes: session.Yes = False,  # noqa: ARG001 - there is no question that it would answer
    kubeconfig: session.Kubeconfig = None,
    context: session.Context = None,
) -> None:
    """Remove Culvert from a cluster and its nodes; running pods stay and go on without the mesh."""
    try:
        program = chart.find_helm(helm)
    except CommandError as error:
        session.fail("uninstall", str(error))

    async def work(client: kube.Client) -> None:
        await _clean_nodes(client, namespace, timeout_s)
        gateways = await edge.releases(program, namespace, kubeconfig=kubeconfig, context=context)
        for release in (*gateways, chart.RELEASE):
            arguments = ["uninstall", release, f"--namespace={namespace}", "--ignore-not-found"]
            await chart.helm(program, arguments, kubeconfig=kubeconfig, context=context)
        await _end_streams(client, namespace)
        await waiting.until_done(
            lambda: waiting.present(client, namespace), what="pods of Culvert are gone", timeout_s=timeout_s
        )
        # A replica that had no time to give it back would keep the first one of the next installation waiting.
        await _delete(client, kinds.LEASE, names.CONTROL_PLANE_LEASE, namespace)
        if purge:
            await _purge(client, namespace, chart.folder())

    session.run("uninstall", work, kubeconfig=kubeconfig, context=context)


async def _clean_nodes(client: kube.Client, namespace: str, timeout_s: float) -> None:
    agent = Part.NODE_AGENT
    captured = len(components.captured(await client.items(kinds.POD)))
    if captured:
        session.say(f"{captured} pods leave the mesh")
    await _delete(client, agent.kind, agent.object_name, namespace)
    await waiting.until_done(
        lambda: waiting.present(client, namespace, (agent,)), what="nodes are as they were", timeout_s=timeout_s
    )


async def _end_streams(client: kube.Client, namespace: str) -> None:
    """Do not wait an hour for connections that are still open in a tunnel: who uninstalls wants it gone."""
    selector = {"labelSelector": components.pod_selector(Part.ZTUNNEL)}
    for pod in await client.items(kinds.POD, namespace, selector):
        await _delete(client, kinds.POD, pod["metadata"]["name"], namespace, grace_period_s=_STREAMS_GRACE_S)


async def _purge(client: kube.Client, namespace: str, folder: Path) -> None:
    for definition in chart.definitions(folder):
        await _delete(client, kinds.CUSTOM_RESOURCE_DEFINITION, definition["metadata"]["name"])
    # Those of the Gateway API, where the chart has installed them.
    for definition in await client.items(kinds.CUSTOM_RESOURCE_DEFINITION, None, _PART_OF_US):
        await _delete(client, kinds.CUSTOM_RESOURCE_DEFINITION, definition["metadata"]["name"])
    await _delete(client, kinds.SECRET, names.CA_SECRET, namespace)
    for name in (names.ROOT_CERT_CONFIGMAP, names.CRL_CONFIGMAP):
        for item in await client.items(kinds.CONFIG_MAP, None, {"fieldSelector": f"metadata.name={name}"}):
            await _delete(client, kinds.CONFIG_MAP, name, item["metadata"]["namespace"])
    own = await client.find(kinds.NAMESPACE, namespace)
    labels = (own or {}).get("metadata", {}).get("labels") or {}
    if MADE_BY_US.items() <= labels.items():
        await _delete(client, kinds.NAMESPACE, namespace)
    session.say("custom resource definitions, signing key and roots removed")


async def _delete(
    client: kube.Client, kind: Kind, name: str, namespace: str | None = None, *, grace_period_s: int | None = None
) -> None:
    try:
        await client.delete(kind, name, namespace, grace_period_s=grace_period_s)
    except kube.NotFound:
        return
