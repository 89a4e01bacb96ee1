"""The document about a service or a pod, for people. Pure."""

from collections.abc import Iterator, Sequence
from typing import Final

from meshctl.output import Table
from meshkit.kube import Json

_NONE: Final = "none"


def render(document: Json) -> str:
    """Return the text."""
    return "\n".join(_lines(document))


def _lines(document: Json) -> Iterator[str]:
    yield f"{document['kind']}: {document['name']}"
    if document["kind"] == "Pod":
        yield f"Node: {document['node']}"
        yield f"Identity: {document['identity']}"
        yield f"Services: {', '.join(document['services']) or _NONE}"
    else:
        ports = (f"{port} to {target}" for port, target in document["ports"].items())
        yield f"Host: {document['hostname']}"
        yield f"Ports: {', '.join(ports) or _NONE}"
        yield f"Healthy endpoints: {document['endpoints']['healthy']} of {document['endpoints']['all']}"
    yield f"Mutual TLS: {document['mutualTLS']}"
    yield f"Waypoint: {document['waypoint'] or _NONE}"
    if problem := document.get("waypointProblem"):
        yield f"  not as labels ask: {problem}" if not document["waypoint"] else f"  {problem}"
    if "routes" in document:
        yield from _section("Routes at the waypoint, in the order in which they are tried", _routes(document["routes"]))
    if "waypointPolicies" in document:
        title = "Policies at the waypoint, in the order in which they are evaluated"
        yield from _section(title, _policies(document["waypointPolicies"]))
    yield from _section(
        "Policies at ztunnel, in the order in which they are evaluated", _policies(document["policies"])
    )


def _section(title: str, table: Table) -> Iterator[str]:
    if not table.rows:
        yield f"{title}: {_NONE}"
        return
    yield f"{title}:"
    yield from (f"  {line}" for line in str(table).splitlines())


def _routes(items: Sequence[Json]) -> Table:
    rows = [(one["port"], one["match"], one["from"] or "default", one["rule"], one["to"]) for one in items]
    return Table(("PORT", "MATCH", "FROM", "RULE", "TO"), rows)


def _policies(items: Sequence[Json]) -> Table:
    rows = [
        (
            str(number),
            one.get("action", "-") + (" (dry run)" if one.get("dryRun") else ""),
            f"{one['kind']} {one['name']}",
            one.get("problem", ""),
        )
        for number, one in enumerate(items, 1)
    ]
    return Table(("", "ACTION", "OBJECT", "PROBLEM"), rows)
