"""``culvert proxy-status``: which proxy has what the control plane sent; exit status 1 unless all are in sync."""

import typer

from meshctl import pages, session, synchrony
from meshctl.components import Part
from meshctl.output import Form, Output, show
from meshctl.session import CommandError
from meshctl.synchrony import Proxy
from meshkit import kube


def proxy_status(
    output: Output = Form.TABLE,
    namespace: session.SystemNamespace = session.DEFAULT_NAMESPACE,
    kubeconfig: session.Kubeconfig = None,
    context: session.Context = None,
) -> None:
    """Show for every proxy whether it has accepted what the control plane sent last, and if not, why."""
    found, silent = session.run(
        "proxy-status", lambda client: collect(client, namespace), kubeconfig=kubeconfig, context=context
    )
    show(output, synchrony.table(found), [one.document for one in found])
    for line in [*silent, *synchrony.reasons(found)]:
        session.say(f"culvert proxy-status: {line}")
    if silent or not all(one.is_synced for one in found):
        raise typer.Exit(1)


async def collect(client: kube.Client, namespace: str) -> tuple[list[Proxy], list[str]]:
    """Return the proxies of all replicas together, and what replicas did not answer.

    Raises:
        CommandError: no replica answered.
    """
    processes = await pages.processes(client, namespace, Part.CONTROL_PLANE, Part.ZTUNNEL)
    planes = [one for one in processes if one.part is Part.CONTROL_PLANE and one.ready]
    if not planes:
        raise CommandError(f"no control plane is ready in namespace {namespace}; see `culvert status`")
    answers = await pages.each(pages.streams(client, one) for one in planes)
    good = {
        plane.pod: answer for plane, answer in zip(planes, answers, strict=True) if not isinstance(answer, CommandError)
    }
    silent = [str(answer) for answer in answers if isinstance(answer, CommandError)]
    if not good:
        raise CommandError("; ".join(silent))
    ztunnels = [(f"{one.pod}.{one.namespace}", one.node) for one in processes if one.part is Part.ZTUNNEL and one.ready]
    return synchrony.proxies(good, ztunnels), silent
