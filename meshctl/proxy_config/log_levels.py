"""``culvert proxy-config log``: how much a waypoint's Envoy logs, shown and set until it restarts."""

import re
from typing import Annotated, Final
from urllib.parse import quote

import typer

from meshctl import session
from meshctl.proxy_config import sources
from meshctl.proxy_config.sources import Proxy
from meshctl.session import CommandError
from meshkit import kube

LEVELS: Final = ("trace", "debug", "info", "warning", "error", "critical", "off")
_DEFAULT: Final = "warning"
_PART: Final = re.compile(r"(?:(?P<logger>[a-z0-9_]+)[:=])?(?P<level>[a-z]+)")


def log(
    *,
    pod: Annotated[str, typer.Argument(help="[TYPE/]NAME[.NAMESPACE] of a waypoint's pod or deployment.")],
    level: Annotated[str, typer.Option(help="LEVEL of all loggers, or LOGGER:LEVEL,...")] = "",
    reset: Annotated[bool, typer.Option("--reset", "-r", help=f"Set all to {_DEFAULT}.")] = False,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="The pod's namespace.")] = "default",
    kubeconfig: session.Kubeconfig = None,
    context: session.Context = None,
) -> None:
    """Show how much each logger of a waypoint's Envoy logs, or set it."""

    async def work(client: kube.Client) -> str:
        if level and reset:
            raise CommandError("give --level or --reset, not both")
        changes = queries(_DEFAULT if reset else level)
        found = await sources.find_pod(client, sources.target(pod, namespace))
        if sources.proxy_of(found) is Proxy.ZTUNNEL:
            raise CommandError(f"pod {pod} has no Envoy; `culvert ztunnel-config log` sets the level of its ztunnel")
        answer = b""
        for query in changes:
            answer = await sources.envoy_page(client, found, f"/logging{query}", method="POST")
        return f"{found['metadata']['name']}.{found['metadata']['namespace']}:\n{answer.decode().rstrip()}"

    typer.echo(session.run("proxy-config log", work, kubeconfig=kubeconfig, context=context))


def queries(levels: str) -> list[str]:
    """Return the queries to Envoy's page ``/logging``, one after another: that for all loggers first.

    Args:
        levels: ``LEVEL``, or ``LOGGER:LEVEL`` separated by commas, or nothing to be shown the present levels.

    Raises:
        CommandError: it means nothing.
    """
    every, single = "", []
    for part in levels.split(",") if levels else ():
        found = _PART.fullmatch(part)
        if found is None or found["level"] not in LEVELS:
            raise CommandError(f"--level: {part!r} is not [LOGGER:]LEVEL with a level of {', '.join(LEVELS)}")
        if found["logger"] is None:
            every = found["level"]
        else:
            single.append(f"{found['logger']}:{found['level']}")
    asked = [f"?level={every}"] if every else []
    asked += [f"?paths={quote(','.join(single))}"] if single else []
    return asked or [""]
