"""The pods of each node as its node agent sees them: captured, or why not. Pure."""

from collections.abc import Sequence

from meshctl.output import Table
from meshkit.kube import Json


def table(items: Sequence[Json]) -> Table:
    """Return the pods as a table, by namespace and name."""
    columns = ("NAMESPACE", "POD", "NODE", "STATE", "SINCE", "BACKEND", "EGRESS", "REASON")
    rows = [
        (
            one["namespace"], one["name"], one["node"], one["state"], one["since"],
            one["backend"] or "-", one.get("egress") or "-", one["reason"] or "-",
        )
        for one in items
    ]  # fmt: skip
    return Table(columns, sorted(rows))
