"""``culvert install``: the chart, applied by Helm, and a wait that says what it waits for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from meshapi import names
from meshctl import chart, edge, session, waiting
from meshctl.session import CommandError
from meshkit import kube
from meshkit.kube import Json, PatchType, kinds

MADE_BY_US: Final = {"app.kubernetes.io/managed-by": "culvert"}
"""Label of the namespace when ``install`` has made it; ``uninstall --purge`` removes only such a one."""
_PROFILES: Final = frozenset({"default", "minimal", "ambient"})
"""Istio's profiles of which nothing is missing here: control plane, node agent and ztunnel."""
_DEMO: Final = "demo"
"""Istio's profile with an ingress and an egress gateway besides."""
_PRIVILEGED: Final = {"pod-security.kubernetes.io/enforce": "privileged"}
"""Node agent and ztunnel use what the lower levels of pod security refuse (host paths, capabilities)."""


@dataclass(frozen=True, slots=True)
class _Request:
    namespace: str
    chart: Path
    helm: Path
    values: tuple[Path, ...]
    sets: tuple[str, ...]
    kubeconfig: Path | None
    context: str | None
    wait_s: float | None
    with_gateways: bool = False


def install(
    *,
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="A value of the chart, as image.tag=1.2; as often as needed.")
    ] = None,
    values: Annotated[
        list[Path] | None, typer.Option("--values", "-f", help="File of values; as often as needed.", exists=True)
    ] = None,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Where to install.")] = names.DEFAULT_NAMESPACE,
    wait: Annotated[bool, typer.Option(help="Wait until every part is ready.")] = True,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Longest wait, in seconds.", min=1)] = 180.0,
    helm: Annotated[Path | None, typer.Option(help="The program helm, if it is not on the PATH.")] = None,
    chart_folder: Annotated[Path | None, typer.Option("--chart", help="Another chart than the one shipped.")] = None,
    yes: session.Yes = False,  # noqa: ARG001 - there is no question that it would answer
    kubeconfig: session.Kubeconfig = None,
    context: session.Context = None,
) -> None:
    """Install Culvert into a cluster, or bring an installation to this version and these values."""
    try:
        request = _Request(
            namespace=namespace,
            chart=chart_folder or chart.folder(),
            helm=chart.find_helm(helm),
            values=tuple(values or ()),
            sets=without_profile(sets or ()),
            with_gateways=has_gateways(sets or ()),
            kubeconfig=kubeconfig,
            context=context,
            wait_s=timeout_s if wait else None,
        )
    except CommandError as error:
        session.fail("install", str(error))
    session.run("install", lambda client: _install(client, request), kubeconfig=kubeconfig, context=context)


def without_profile(sets: Sequence[str]) -> tuple[str, ...]:
    """Return the values of the chart among those that are given, without Istio's ``profile=NAME``.

    Raises:
        CommandError: a profile has parts that there are not.
    """
    chosen = []
    for given in sets:
        name, _, value = given.partition("=")
        if name != "profile":
            chosen.append(given)
        elif value not in {*_PROFILES, _DEMO}:
            known = ", ".join(sorted({*_PROFILES, _DEMO}))
            reason = f'profile "{value}" has parts that Culvert lacks, or is not known; use one of {known}'
            raise CommandError(f"--set profile: {reason}")
    return tuple(chosen)


def has_gateways(sets: Sequence[str]) -> bool:
    """Return whether the profile that counts, the last one that is given, has gateways."""
    given = [value for name, _, value in (one.partition("=") for one in sets) if name == "profile"]
    return given[-1:] == [_DEMO]


async def _install(client: kube.Client, request: _Request) -> None:
    await _refuse_another(client, request.namespace)
    await _ensure_namespace(client, request.namespace)
    for definition in chart.definitions(request.chart):
        name = definition["metadata"]["name"]
        # Helm never upgrades what is in crds/.
        await client.patch(kinds.CUSTOM_RESOURCE_DEFINITION, name, definition, patch_type=PatchType.APPLY)
    arguments = ["upgrade", "--install", chart.RELEASE, str(request.chart), f"--namespace={request.namespace}"]
    arguments += ["--skip-crds", "--reset-values"]
    arguments += [f"--values={file}" for file in request.values]
    arguments += [f"--set={value}" for value in request.sets]
    await chart.helm(request.helm, arguments, kubeconfig=request.kubeconfig, context=request.context)
    if request.with_gateways:
        await edge.install(request.helm, request.namespace, kubeconfig=request.kubeconfig, context=request.context)
    if request.wait_s is None:
        session.say(f"applied to namespace {request.namespace}; `culvert status` says when it is ready")
        return
    gateways = [one.release for one in edge.Demo] if request.with_gateways else []

    async def unready() -> list[str]:
        lacking = await waiting.unready(client, request.namespace)
        return lacking or await edge.unready(client, request.namespace, gateways)

    await waiting.until_done(unready, what="ready", timeout_s=request.wait_s)
    session.say(f"put a namespace into the mesh: kubectl label namespace NAME {names.DATAPLANE_MODE_LABEL}=ambient")


async def _ensure_namespace(client: kube.Client, namespace: str) -> None:
    if await client.find(kinds.NAMESPACE, namespace) is None:
        body: Json = {"metadata": {"name": namespace, "labels": {**MADE_BY_US, **_PRIVILEGED}}}
        await client.create(kinds.NAMESPACE, body)


async def _refuse_another(client: kube.Client, namespace: str) -> None:
    """Two meshes of the same names would fight over the nodes' CNI configuration and the workloads' certificates."""
    others = await client.items(kinds.DEPLOYMENT, None, {"labelSelector": "app=istiod"})
    for other in others:
        metadata = other["metadata"]
        ours = (metadata.get("labels") or {}).get("app.kubernetes.io/part-of") == "culvert"
        where = f"{metadata['namespace']}/{metadata['name']}"
        if not ours:
            raise CommandError(f"Deployment {where} is another mesh's control plane; uninstall that mesh first")
        if metadata["namespace"] != namespace:
            raise CommandError(f"Culvert is installed in namespace {metadata['namespace']} already; use --namespace")
