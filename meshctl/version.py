"""``culvert version``: of this command, and of what runs in the cluster."""

from importlib import metadata
from typing import Annotated, Any

import typer

from meshctl import pages, session
from meshctl.output import Form, Output, Table, show
from meshctl.session import CommandError
from meshkit import kube


def own_version() -> str:
    """Return the version of this command."""
    try:
        return metadata.version("culvert")
    except metadata.PackageNotFoundError:
        return "source tree"


def version(
    remote: Annotated[bool, typer.Option(help="Show the versions in the cluster too.")] = True,
    output: Output = Form.TABLE,
    namespace: session.SystemNamespace = session.DEFAULT_NAMESPACE,
    kubeconfig: session.Kubeconfig = None,
    context: session.Context = None,
) -> None:
    """Show the version of this command, of the control plane and of the data planes."""
    document: dict[str, Any] = {"client": own_version()}

    async def work(client: kube.Client) -> list[dict[str, str]]:
        found = [one for one in await pages.processes(client, namespace) if one.ready]
        answers = await pages.each(pages.metrics(client, one) for one in found)
        return [
            {
                "component": one.part.title,
                "node": one.node,
                "pod": one.pod,
                "version": "unknown" if isinstance(answer, CommandError) else pages.version(answer),
            }
            for one, answer in zip(found, answers, strict=True)
        ]

    if remote:
        document["mesh"] = session.run("version", work, kubeconfig=kubeconfig, context=context)
    rows = [("client", "", "", document["client"])]
    rows += [(one["component"], one["node"], one["pod"], one["version"]) for one in document.get("mesh", [])]
    show(output, Table(("COMPONENT", "NODE", "POD", "VERSION"), rows), document)
