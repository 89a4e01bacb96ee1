"""``culvert waypoint``: apply, delete, generate, list and show waypoints; commands and flags are ``istioctl``'s."""

from collections.abc import Callable
from typing import Annotated, Any, Final

import typer
import yaml

from meshapi import names
from meshctl import session, waiting
from meshctl.output import Form, Output, Table, show
from meshctl.session import CommandError
from meshkit import kube
from meshkit.kube import Json, PatchType, kinds

app = typer.Typer(help="Waypoints: the layer 7 proxies of namespaces, services and workloads.", no_args_is_help=True)

_KINDS: Final = ("all", "none", "service", "workload")
_DEFAULT: Final = "waypoint"

Namespace = Annotated[str, typer.Option("--namespace", "-n", help="The waypoint's namespace.")]
Name = Annotated[str, typer.Option(help="Name of the waypoint.")]
For = Annotated[str, typer.Option("--for", help=f"What goes through it: {', '.join(_KINDS)}; default: service.")]
AllNamespaces = Annotated[bool, typer.Option("--all-namespaces", "-A", help="Waypoints of all namespaces.")]


@app.command()
def generate(*, namespace: Namespace = "", name: Name = _DEFAULT, handles: For = "") -> None:
    """Print a waypoint as YAML, to be applied."""
    try:
        made = manifest(name, namespace, handles)
    except CommandError as error:
        session.fail("waypoint generate", str(error))
    typer.echo(yaml.safe_dump(made, sort_keys=False).rstrip())


@app.command()
def apply(
    *,
    namespace: Namespace = "default",
    name: Name = _DEFAULT,
    handles: For = "",
    enroll_namespace: Annotated[
        bool, typer.Option("--enroll-namespace", help="Make the namespace use the waypoint.")
    ] = False,
    overwrite: Annotated[bool, typer.Option(help="Do so also where the namespace uses another one.")] = False,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Wait until it is ready.")] = False,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Longest wait, in seconds.", min=1)] = 90.0,
    kubeconfig: session.Kubeconfig = None,
    context: session.Context = None,
) -> None:
    """Apply a waypoint."""

    async def work(client: kube.Client) -> None:
        body = manifest(name, namespace, handles)
        held = await client.get(kinds.NAMESPACE, namespace)
        labels = held["metadata"].get("labels") or {}
        used = labels.get(names.USE_WAYPOINT_LABEL, name)
        if enroll_namespace and used != name and not overwrite:
            raise CommandError(f"namespace {namespace} uses the waypoint {used}; add --overwrite to change that")
        try:
            await client.patch(kinds.GATEWAY, name, body, namespace, patch_type=PatchType.APPLY, manager="culvert-cli")
        except kube.NotFound:
            raise CommandError("the Gateway API is not installed; set gatewayAPI.channel in the chart") from None
        session.say(f"waypoint {namespace}/{name} applied")
        if wait:
            await waiting.until_done(
                lambda: _unprogrammed(client, namespace, name), what=f"{namespace}/{name} is ready", timeout_s=timeout_s
            )
        if not enroll_namespace:
            return
        if labels.get(names.DATAPLANE_MODE_LABEL) != names.DATAPLANE_MODE_AMBIENT:
            session.say(
                f"namespace {namespace} is not in the mesh: "
                f"kubectl label namespace {namespace} {names.DATAPLANE_MODE_LABEL}={names.DATAPLANE_MODE_AMBIENT}"
            )
        use: Json = {"metadata": {"labels": {names.USE_WAYPOINT_LABEL: name}}}
        await client.patch(kinds.NAMESPACE, namespace, use)
        session.say(f"namespace {namespace} labelled {names.USE_WAYPOINT_LABEL}={name}")

    session.run("waypoint apply", work, kubeconfig=kubeconfig, context=context)


@app.command()
def delete(
    *,
    waypoints: Annotated[list[str] | None, typer.Argument(help="Names of waypoints.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All waypoints of the namespace.")] = False,
    namespace: Namespace = "default",
    kubeconfig: session.Kubeconfig = None,
    context: session.Context = None,
) -> None:
    """Delete waypoints; what used them is reached without one."""

    async def work(client: kube.Client) -> None:
        given = list(waypoints or ())
        if bool(given) == everything:
            raise CommandError("name waypoints, or give --all")
        found = given or [one["metadata"]["name"] for one in await _waypoints(client, namespace)]
        for name in found:
            held = await client.find(kinds.GATEWAY, name, namespace)
            if held is None or not _is_waypoint(held):
                raise CommandError(f"there is no waypoint {namespace}/{name}")
            await client.delete(kinds.GATEWAY, name, namespace)
            session.say(f"waypoint {namespace}/{name} deleted")

    session.run("waypoint delete", work, kubeconfig=kubeconfig, context=context)


@app.command("list")
def list_waypoints(
    *,
    namespace: Namespace = "default",
    all_namespaces: AllNamespaces = False,
    output: Output = Form.TABLE,
    kubeconfig: session.Kubeconfig = None,
    context: session.Context = None,
) -> None:
    """List waypoints."""
    scope = None if all_namespaces else namespace
    found = session.run("waypoint list", lambda one: _waypoints(one, scope), kubeconfig=kubeconfig, context=context)
    _show(output, listed, found)


@app.command()
def status(
    *,
    namespace: Namespace = "default",
    all_namespaces: AllNamespaces = False,
    output: Output = Form.TABLE,
    kubeconfig: session.Kubeconfig = None,
    context: session.Context = None,
) -> None:
    """Show whether waypoints are ready, and why not."""
    scope = None if all_namespaces else namespace
    found = session.run("waypoint status", lambda one: _waypoints(one, scope), kubeconfig=kubeconfig, context=context)
    _show(output, states, found)


def _show(output: Form, table: Callable[[list[Json]], Table], found: list[Json]) -> None:
    show(output, table(found) if found else "No waypoints found.", [_short(one) for one in found])


def manifest(name: str, namespace: str, handles: str) -> Json:
    """Return a waypoint.

    Raises:
        CommandError: the name or what it handles means nothing.
    """
    if name == names.USE_WAYPOINT_NONE:
        raise CommandError(f"{name!r} is no name for a waypoint: as a label it means to use none")
    if handles and handles not in _KINDS:
        raise CommandError(f"--for: {handles!r} is none of {', '.join(_KINDS)}")
    metadata: Json = {"name": name}
    if namespace:
        metadata["namespace"] = namespace
    if handles:
        metadata["labels"] = {names.WAYPOINT_FOR_LABEL: handles}
    return {
        "apiVersion": kinds.GATEWAY.api_version,
        "kind": kinds.GATEWAY.name,
        "metadata": metadata,
        "spec": {
            "gatewayClassName": names.WAYPOINT_CLASS,
            "listeners": [{"name": "mesh", "port": names.HBONE_PORT, "protocol": "HBONE"}],
        },
    }


def listed(waypoints: list[Json]) -> Table:
    """Return waypoints as a table. Pure."""
    rows = [
        (
            one["metadata"]["namespace"],
            one["metadata"]["name"],
            _handles(one),
            ",".join(address.get("value", "") for address in (one.get("status") or {}).get("addresses") or ()),
            _condition(one, "Programmed").get("status", "Unknown"),
        )
        for one in waypoints
    ]
    return Table(("NAMESPACE", "NAME", "FOR", "ADDRESSES", "PROGRAMMED"), sorted(rows))


def states(waypoints: list[Json]) -> Table:
    """Return the conditions of waypoints as a table. Pure."""
    rows = [
        (
            one["metadata"]["namespace"],
            one["metadata"]["name"],
            kind,
            condition.get("status", "Unknown"),
            condition.get("reason", ""),
            condition.get("message", ""),
        )
        for one in waypoints
        for kind in ("Accepted", "Programmed")
        for condition in [_condition(one, kind)]
    ]
    return Table(("NAMESPACE", "NAME", "TYPE", "STATUS", "REASON", "MESSAGE"), sorted(rows))


async def _waypoints(client: kube.Client, namespace: str | None) -> list[Json]:
    try:
        found = await client.items(kinds.GATEWAY, namespace)
    except kube.NotFound:
        raise CommandError("the Gateway API is not installed; set gatewayAPI.channel in the chart") from None
    return [one for one in found if _is_waypoint(one)]


async def _unprogrammed(client: kube.Client, namespace: str, name: str) -> list[str]:
    held = await client.get(kinds.GATEWAY, name, namespace)
    condition = _condition(held, "Programmed")
    if condition.get("status") == "True":
        return []
    return [str(condition.get("reason") or "the control plane")]


def _is_waypoint(gateway: Json) -> bool:
    return bool(gateway["spec"].get("gatewayClassName") == names.WAYPOINT_CLASS)


def _handles(gateway: Json) -> str:
    return str((gateway["metadata"].get("labels") or {}).get(names.WAYPOINT_FOR_LABEL, "service"))


def _condition(gateway: Json, kind: str) -> dict[str, Any]:
    conditions = (gateway.get("status") or {}).get("conditions") or ()
    return next((dict(one) for one in conditions if one.get("type") == kind), {})


def _short(gateway: Json) -> Json:
    status_of = gateway.get("status") or {}
    return {
        "namespace": gateway["metadata"]["namespace"],
        "name": gateway["metadata"]["name"],
        "for": _handles(gateway),
        "addresses": status_of.get("addresses") or [],
        "conditions": status_of.get("conditions") or [],
    }
