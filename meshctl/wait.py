"""``culvert wait``: until every proxy has accepted an object as it is now, for scripts that go on after it was applied.

The command and its flags are ``istioctl``'s (``istioctl experimental wait``). The control plane writes an object's
conditions after it has computed what proxies get of it; from then on what counts is whether proxies have accepted what
they were sent last.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from math import ceil
from typing import Annotated, Final

import typer

from meshapi import names
from meshapi.mesh_config.model import seconds
from meshctl import proxy_status, session, waiting
from meshctl.session import CommandError
from meshctl.synchrony import Proxy
from meshkit import kube
from meshkit.kube import Json, Kind, kinds

_KINDS: Final = (
    kinds.VIRTUAL_SERVICE,
    kinds.DESTINATION_RULE,
    kinds.SERVICE_ENTRY,
    kinds.WORKLOAD_ENTRY,
    kinds.AUTHORIZATION_POLICY,
    kinds.REQUEST_AUTHENTICATION,
    kinds.PEER_AUTHENTICATION,
    kinds.TELEMETRY,
    kinds.HTTP_ROUTE,
    kinds.GRPC_ROUTE,
    kinds.TCP_ROUTE,
    kinds.TLS_ROUTE,
    kinds.UDP_ROUTE,
    kinds.LISTENER_SET,
    kinds.ENVOY_FILTER,
    kinds.BACKEND_TLS_POLICY,
    kinds.BACKEND_TRAFFIC_POLICY,
    kinds.GATEWAY,
    kinds.ISTIO_GATEWAY,
)
"""Kinds whose status the control plane writes."""
_SHORT: Final = {"vs": kinds.VIRTUAL_SERVICE, "dr": kinds.DESTINATION_RULE, "se": kinds.SERVICE_ENTRY,
                 "we": kinds.WORKLOAD_ENTRY, "ap": kinds.AUTHORIZATION_POLICY, "ra": kinds.REQUEST_AUTHENTICATION,
                 "pa": kinds.PEER_AUTHENTICATION, "gtw": kinds.GATEWAY, "gw": kinds.ISTIO_GATEWAY}  # fmt: skip
_PARTLY: Final = "UnsupportedValue"
"""Reason of a condition: the rest of the object is in force."""


class Event(StrEnum):
    """What can be waited for."""

    DISTRIBUTION = "distribution"


def wait(
    *,
    kind: Annotated[str, typer.Argument(help="Kind of the object, as virtualservice or vs.", show_default=False)],
    name: Annotated[str, typer.Argument(help="NAME[.NAMESPACE].", show_default=False)],
    event: Annotated[Event, typer.Option("--for", help="What to wait for.")] = Event.DISTRIBUTION,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Where it is.")] = "default",
    timeout: Annotated[str, typer.Option(help="Longest wait, as 30s or 1m30s.")] = "30s",
    threshold: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of the proxies that is enough.")] = 1.0,
    proxy: Annotated[list[str] | None, typer.Option(help="Only these proxies, as POD.NAMESPACE.")] = None,
    generation: Annotated[int, typer.Option(help="Of the object; 0: the one it has now.")] = 0,
    system_namespace: session.SystemNamespace = session.DEFAULT_NAMESPACE,
    kubeconfig: session.Kubeconfig = None,
    context: session.Context = None,
) -> None:
    """Wait until all proxies have an object as it is now; exit status 1 if they do not within the timeout."""
    found, timeout_s = kind_of(kind), timeout_of(timeout)
    short, _, given = name.partition(".")
    key = (given or namespace, short)

    async def work(client: kube.Client) -> None:
        async def pending() -> list[str]:
            item = await client.find(found, key[1], key[0])
            if item is None:
                raise CommandError(f"there is no {found.name} {'/'.join(key)}")
            return unprocessed(item, generation) or await _unsynced(client, system_namespace, proxy or (), threshold)

        await waiting.until_done(pending, what=f"{found.name} {'/'.join(key)} distributed", timeout_s=timeout_s)

    session.run(f"wait --for={event.value}", work, kubeconfig=kubeconfig, context=context)


def unprocessed(item: Json, generation: int = 0) -> list[str]:
    """Return what the control plane has not done with an object, or why it has no effect; nothing: it is in force.

    Args:
        item: the object.
        generation: how new it has to be; 0: as it is now.
    """
    wanted = generation or int(item["metadata"].get("generation", 0))
    status = item.get("status") or {}
    shared = (*(status.get("parents") or ()), *(status.get("ancestors") or ()))
    ours = [one for one in shared if one.get("controllerName") in names.ROUTE_CONTROLLERS]
    conditions = [
        *(status.get("conditions") or ()),
        *(one for parent in ours for one in parent.get("conditions") or ()),
    ]
    current = [one for one in conditions if int(one.get("observedGeneration", 0)) >= wanted]
    if not current:
        return [f"the control plane to process generation {wanted}"]
    bad = [one for one in current if one.get("status") == "False" and one.get("reason") != _PARTLY]
    return [f"condition {one['type']} to be True ({one.get('reason', '')}: {one.get('message', '')})" for one in bad]


def unsynced(found: Iterable[Proxy], chosen: Sequence[str], threshold: float) -> list[str]:
    """Return the proxies that lack something, unless enough of the chosen ones (none chosen: of all) lack nothing.

    Raises:
        CommandError: a chosen proxy is not connected.
    """
    proxies = {one.name: one for one in found}
    for name in chosen:
        if name not in proxies:
            raise CommandError(f"no proxy is called {name}; see `culvert proxy-status`")
    meant = [proxies[name] for name in chosen] or list(proxies.values())
    late = [one.name for one in meant if not one.is_synced]
    return late if len(meant) - len(late) < ceil(threshold * len(meant)) else []


def timeout_of(given: str) -> float:
    """Return the seconds of a duration such as ``30s``; a plain number is seconds. Raises ``typer.BadParameter``."""
    try:
        return float(given) if given.replace(".", "", 1).isdigit() else seconds(given)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def kind_of(given: str) -> Kind:
    """Return a kind by its name, its plural or its short name, with or without its group, as kubectl takes it.

    Raises:
        typer.BadParameter: there is no such kind, or it has no conditions.
    """
    name, _, group = given.lower().partition(".")
    # Two kinds are called Gateway: without a group it is the one of the Gateway API.
    named = [kind for kind in _KINDS if name in {kind.name.lower(), kind.plural}]
    if named:
        return next((kind for kind in named if kind.group == group), named[0])
    if name in _SHORT:
        return _SHORT[name]
    known = ", ".join(kind.plural for kind in _KINDS)
    raise typer.BadParameter(f"{given!r} is no kind that the control plane writes conditions for; write one of {known}")


async def _unsynced(client: kube.Client, namespace: str, chosen: Sequence[str], threshold: float) -> list[str]:
    found, silent = await proxy_status.collect(client, namespace)
    return [*silent, *unsynced(found, chosen, threshold)]
