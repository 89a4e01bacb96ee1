"""``culvert status``: whether all is well, node by node; exit status 1 if it is not."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from meshctl import health, pages, session
from meshctl.components import Part, readiness
from meshctl.health import Drain, Health, Sync
from meshctl.output import Form, Output, show
from meshctl.pages import Process
from meshctl.session import CommandError
from meshkit import kube
from meshkit.kube import Json


def status(
    *,
    with_pods: Annotated[
        bool, typer.Option("--pods", help="Show every pod too: whether it is captured, and why not.")
    ] = False,
    output: Output = Form.TABLE,
    namespace: session.SystemNamespace = session.DEFAULT_NAMESPACE,
    kubeconfig: session.Kubeconfig = None,
    context: session.Context = None,
) -> None:
    """Show how Culvert is: parts, nodes, captured pods, certificates; status 1 if something is wrong."""
    found = session.run(
        "status",
        lambda client: _collect(client, namespace, with_pods=with_pods),
        kubeconfig=kubeconfig,
        context=context,
    )
    show(output, health.table(found, datetime.now(UTC)), found.document)
    for problem in found.problems:
        session.say(f"culvert status: {problem}")
    if found.problems:
        raise typer.Exit(1)


async def _collect(client: kube.Client, namespace: str, *, with_pods: bool) -> Health:
    parts = []
    for part in Part:
        item = await client.find(part.kind, part.object_name, namespace)
        if item is not None:
            parts.append(readiness(part, item))
    if not parts:
        raise CommandError(f"Culvert is not installed in namespace {namespace}; `culvert install` does that")
    processes = await pages.processes(client, namespace)
    streams = await _streams(client, processes)
    agents = {one.node: one for one in processes if one.part is Part.NODE_AGENT and one.ready}
    answers = await pages.each(pages.metrics(client, one) for one in agents.values())
    samples = dict(zip(agents, answers, strict=True))
    drains = await _drains(client, processes)
    nodes = sorted({one.node for one in processes if one.part is not Part.CONTROL_PLANE and one.node})
    described = [
        health.of_node(
            node,
            processes,
            None if isinstance(samples.get(node), CommandError | None) else samples[node],
            Sync.UNKNOWN if streams is None else health.sync_of(node, streams),
        )
        for node in nodes
    ]
    missing = [f"{part.title}: not installed" for part in Part if part not in {one.part for one in parts}]
    faults = missing + health.problems(parts, described, processes, datetime.now(UTC))
    if not with_pods:
        return Health(parts, described, faults, drains)
    lists = dict(zip(agents, await pages.each(pages.pods(client, one) for one in agents.values()), strict=True))
    faults += [f"{node}: {answer}" for node, answer in lists.items() if isinstance(answer, CommandError)]
    pods = [pod for answer in lists.values() if not isinstance(answer, CommandError) for pod in answer]
    return Health(parts, described, faults, drains, pods)


async def _drains(client: kube.Client, processes: list[Process]) -> list[Drain]:
    draining = [one for one in processes if one.part is Part.ZTUNNEL and one.draining]
    answers = await pages.each(pages.metrics(client, one) for one in draining)
    return [
        health.drain_of(one, None if isinstance(answer, CommandError) else answer)
        for one, answer in zip(draining, answers, strict=True)
    ]


async def _streams(client: kube.Client, processes: list[Process]) -> list[Json] | None:
    """Return the proxies of all control planes together; None when none answered."""
    planes = [one for one in processes if one.part is Part.CONTROL_PLANE and one.ready]
    answers = await pages.each(pages.streams(client, one) for one in planes)
    good = [answer for answer in answers if not isinstance(answer, CommandError)]
    return [stream for answer in good for stream in answer] if good else None
