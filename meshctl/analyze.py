"""``culvert analyze``: what is wrong with a configuration, in a cluster, in files, or in files as if applied to one."""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final

import typer

from meshapi import names
from meshapi.analysis.enrolment import EnrolmentRules, SidecarInjection
from meshctl import session
from meshctl.analysis import enrolment, gateways, mesh_config, network_policies, policies, routing, services
from meshctl.analysis.messages import Finding, Level, catalog
from meshctl.analysis.world import MODELS, World, documents
from meshctl.output import Form, Output, show
from meshctl.session import CommandError
from meshkit import kube
from meshkit.kube import kinds

FOUND: Final = 79
"""Exit status when something was found, as ``istioctl analyze`` ends."""
_SUFFIXES: Final = frozenset({".yaml", ".yml", ".json"})


def analyze(
    *,
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Files or folders of manifests, looked at as if they were applied; - is standard input."),
    ] = None,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Namespace that is looked at.")] = "default",
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Look at all namespaces.")] = False,
    use_kube: Annotated[bool, typer.Option(help="Look at the cluster; without it only at the files.")] = True,
    failure_threshold: Annotated[
        Level, typer.Option(case_sensitive=False, help=f"Level from which on the exit status is {FOUND}.")
    ] = Level.ERROR,
    list_codes: Annotated[bool, typer.Option("--list-analyzers", "-L", help="List what can be found.")] = False,
    output: Output = Form.TABLE,
    system_namespace: session.SystemNamespace = session.DEFAULT_NAMESPACE,
    kubeconfig: session.Kubeconfig = None,
    context: session.Context = None,
) -> None:
    """Find mistakes in routes, policies, services and enrolment, each with its code, its place and its remedy."""
    if list_codes:
        show(output, catalog(), [{"code": row[0], "level": row[1], "meaning": row[2]} for row in catalog().rows])
        return
    world = World(root_namespace=system_namespace)
    if use_kube:
        session.run(
            "analyze", lambda client: _load(client, world, system_namespace), kubeconfig=kubeconfig, context=context
        )
    elif not files:
        session.fail("analyze", "nothing to look at: give files, or leave out --no-use-kube")
    try:
        for file in _expanded(files or []):
            _read(world, file, namespace)
    except CommandError as error:
        session.fail("analyze", str(error))
    found = [one for one in examine(world) if all_namespaces or one.origin or _about(one, namespace)]
    lines = "\n".join(map(str, found)) if found else "No problems found."
    show(output, lines, [one.document for one in found])
    if any(one.code.level.rank >= failure_threshold.rank for one in found):
        raise typer.Exit(FOUND)


def examine(world: World) -> list[Finding]:
    """Return everything that is wrong, the worst first."""
    checks = (
        policies.check,
        services.check,
        routing.check,
        gateways.check,
        enrolment.check,
        network_policies.check,
        mesh_config.check,
    )
    found = [*world.findings, *(one for check in checks for one in check(world))]
    return sorted(found, key=lambda one: (-one.code.level.rank, one.namespace, one.kind, one.name, one.field))


async def load(client: kube.Client, system_namespace: str) -> World:
    """Return everything of a cluster that is looked at. Raises ``KubeError``."""
    world = World(root_namespace=system_namespace)
    await _load(client, world, system_namespace)
    return world


async def _load(client: kube.Client, world: World, system_namespace: str) -> None:
    async def listed(kind: str) -> tuple[str, list[kube.Json]]:
        try:
            return kind, await client.items(MODELS[kind][0])
        except kube.NotFound:
            return kind, []  # the definition is not installed

    for kind, items in await asyncio.gather(*map(listed, MODELS)):
        for item in items:
            world.add(item, kind)
    config = await client.find(kinds.CONFIG_MAP, names.MESH_CONFIGMAP, system_namespace)
    if config is not None:
        world.add(config, kinds.CONFIG_MAP.name)
    world.rules = await _enrolment_rules(client, system_namespace)
    world.knows_pods = True


async def _enrolment_rules(client: kube.Client, system_namespace: str) -> EnrolmentRules:
    """Return the rules that the node agents of this installation have; their defaults without an installation."""
    config = await client.find(kinds.CONFIG_MAP, names.NODE_AGENT_CONFIGMAP, system_namespace)
    settings = (config or {}).get("data") or {}
    injection_enrols = settings.get("SIDECAR_INJECTION_LABEL") == SidecarInjection.AMBIENT
    rules = EnrolmentRules(own_namespace=system_namespace, injection_enrols=injection_enrols)
    excluded = settings.get("EXCLUDE_NAMESPACES")
    if excluded is None:
        return rules
    return replace(rules, excluded_namespaces=frozenset(filter(None, map(str.strip, excluded.split(",")))))


def _expanded(given: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for path in given:
        found += sorted(one for one in path.rglob("*") if one.suffix in _SUFFIXES) if path.is_dir() else [path]
    return found


def _read(world: World, file: Path, namespace: str) -> None:
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text()
        for item, kind in documents(text, namespace):
            world.add(item, kind, str(file))
    except (OSError, ValueError) as error:
        raise CommandError(f"{file}: {error}") from error


def _about(finding: Finding, namespace: str) -> bool:
    if finding.kind == kinds.CONFIG_MAP.name:
        return True  # the mesh configuration is about all namespaces
    return namespace == (finding.name if finding.kind == "Namespace" else finding.namespace)
