"""``culvert ztunnel-config``: what ztunnels know.

Workloads, services and policies are the same everywhere, so one ztunnel is queried (that of ``--node``, or any).
Certificates and connections are each node's own, so every ztunnel is queried, and results name the node.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer

from meshctl import pages, session, tables
from meshctl.components import Part
from meshctl.output import Form, Output, Table, show
from meshctl.pages import Process
from meshctl.session import CommandError
from meshkit import kube
from meshkit import log as log_levels
from meshkit.kube import Json

app = typer.Typer(help="What ztunnels know: workloads, services, policies, certificates, connections.")

PodName = Annotated[str, typer.Argument(help="A ztunnel's pod; none means any, or all where each node has its own.")]
NodeName = Annotated[str, typer.Option("--node", help="The ztunnel of this node only.")]
OnlyNamespace = Annotated[str, typer.Option("--namespace", "-n", help="Show what belongs to this namespace only.")]

_SECTIONS: Final[dict[str, Callable[[list[Json]], Table]]] = {
    "workloads": tables.workloads,
    "services": tables.services,
    "policies": tables.policies,
    "certificates": lambda items: tables.certificates(items, datetime.now(UTC)),
    "workloadState": tables.connections,
}
_OF_EACH_NODE: Final = frozenset({"certificates", "workloadState"})


def _command(name: str, section: str, text: str, *aliases: str) -> None:
    def command(
        *,
        pod: PodName = "",
        node: NodeName = "",
        namespace: OnlyNamespace = "",
        output: Output = Form.TABLE,
        system_namespace: session.SystemNamespace = session.DEFAULT_NAMESPACE,
        kubeconfig: session.Kubeconfig = None,
        context: session.Context = None,
    ) -> None:
        async def work(client: kube.Client) -> list[Json]:
            chosen = _chosen(await pages.processes(client, system_namespace, Part.ZTUNNEL), pod=pod, node=node)
            queried = chosen if section in _OF_EACH_NODE else chosen[:1]
            return [
                item
                for process, dump in zip(queried, await _dumps(client, queried), strict=True)
                for item in _items(section, dump, process.node)
                if namespace in ("", tables.namespace_of(section, item))
            ]

        items = session.run(f"ztunnel-config {name}", work, kubeconfig=kubeconfig, context=context)
        show(output, _SECTIONS[section](items), items)

    command.__doc__ = text
    app.command(name, help=text)(command)
    for alias in aliases:
        app.command(alias, help=text, hidden=True)(command)


_command("workloads", "workloads", "Workloads: where each is, and over which protocol it is reached.", "workload")
_command("services", "services", "Services: addresses and endpoints.", "service")
_command("policies", "policies", "Authorization policies that ztunnels enforce.", "policy")
_command("certificates", "certificates", "Certificates of the workloads on each node.", "certificate")
_command("connections", "workloadState", "Open connections of the workloads on each node.", "connection")


@app.command("all")
def everything(
    *,
    pod: PodName = "",
    node: NodeName = "",
    output: Output = Form.TABLE,
    system_namespace: session.SystemNamespace = session.DEFAULT_NAMESPACE,
    kubeconfig: session.Kubeconfig = None,
    context: session.Context = None,
) -> None:
    """Everything that a ztunnel knows; as JSON, its own configuration dump by node."""

    async def work(client: kube.Client) -> dict[str, Json]:
        chosen = _chosen(await pages.processes(client, system_namespace, Part.ZTUNNEL), pod=pod, node=node)
        return {one.node: dump for one, dump in zip(chosen, await _dumps(client, chosen), strict=True)}

    dumps = session.run("ztunnel-config all", work, kubeconfig=kubeconfig, context=context)
    parts = []
    for section, table in _SECTIONS.items():
        queried = dumps if section in _OF_EACH_NODE else dict(list(dumps.items())[:1])
        parts.append(str(table([item for name, dump in queried.items() for item in _items(section, dump, name)])))
    show(output, "\n\n".join(parts), dumps)


@app.command("log")
def log(
    *,
    level: Annotated[log_levels.Level, typer.Argument(help="The new level.")],
    pod: Annotated[str, typer.Argument(help="A ztunnel's pod; none means all.")] = "",
    node: NodeName = "",
    system_namespace: session.SystemNamespace = session.DEFAULT_NAMESPACE,
    kubeconfig: session.Kubeconfig = None,
    context: session.Context = None,
) -> None:
    """Set how much ztunnels log, until they are restarted."""

    async def work(client: kube.Client) -> list[tuple[str, str]]:
        chosen = _chosen(await pages.processes(client, system_namespace, Part.ZTUNNEL), pod=pod, node=node)
        answers = await pages.each(pages.set_log_level(client, one, level) for one in chosen)
        for answer in answers:
            if isinstance(answer, CommandError):
                raise answer
        return [(one.pod, str(answer).strip()) for one, answer in zip(chosen, answers, strict=True)]

    for name, answer in session.run("ztunnel-config log", work, kubeconfig=kubeconfig, context=context):
        typer.echo(f"{name}: {answer}")


def _chosen(found: list[Process], *, pod: str, node: str) -> list[Process]:
    name = pod.partition(".")[0]  # istioctl's form POD.NAMESPACE is understood
    chosen = [one for one in found if name in ("", one.pod) and node in ("", one.node)]
    if not chosen:
        wanted = f"pod {pod}" if pod else f"ztunnel on node {node}" if node else "ztunnel"
        known = ", ".join(f"{one.pod} on {one.node}" for one in found) or "none: is Culvert installed?"
        raise CommandError(f"there is no {wanted}; there are {known}")
    return [one for one in chosen if one.ready] or chosen


async def _dumps(client: kube.Client, chosen: list[Process]) -> list[Json]:
    answers: list[Any] = await pages.each(pages.config_dump(client, one) for one in chosen)
    for answer in answers:
        if isinstance(answer, CommandError):
            raise answer
    return answers


def _items(section: str, dump: Json, node: str) -> list[Json]:
    found = dump.get(section) or []
    if isinstance(found, dict):
        found = [{"uid": uid, **item} for uid, item in found.items()]
    return [{"node": node, **item} if section in _OF_EACH_NODE else item for item in found]
