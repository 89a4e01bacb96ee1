"""The tables at the end of the tour."""

from collections import Counter

from rich import box
from rich.table import Table

from samples.tour.edge import PAGES, STARS, Shift
from samples.tour.mesh import Edge
from samples.tour.wire import Watched


def before(connections: dict[tuple[str, str, int], int], pods: dict[str, tuple[str, str]]) -> Table:
    """Who called whom without the mesh, as read on the wire."""
    table = Table(title="Before the label: read on the wire between the nodes", box=box.SIMPLE, title_justify="left")
    for column in ("from", "node", "to", "node", "over", "connections"):
        table.add_column(column, justify="right" if column == "connections" else "left")
    rows: Counter[tuple[str, ...]] = Counter()
    for (source, destination, port), count in connections.items():
        (client, client_node), (server, server_node) = (
            pods.get(source, (source, "-")),
            pods.get(destination, (destination, "-")),
        )
        rows[_short(client), client_node, f"{_short(server)}:{port}", server_node, "plain text"] += count
    for row, count in sorted(rows.items()):
        table.add_row(*row, str(count))
    return table


def after(seen: Counter[Edge], nodes: dict[str, str]) -> Table:
    """Who called whom with the mesh, as the mesh counted it."""
    table = Table(
        title="After the label: counted by the mesh; identities begin with spiffe://cluster.local/",
        box=box.SIMPLE,
        title_justify="left",
    )
    for column in (
        "from",
        "node",
        "to",
        "node",
        "over",
        "identity of the client",
        "identity of the server",
        "connections",
    ):
        table.add_column(column, justify="right" if column == "connections" else "left", no_wrap=True)
    for edge, count in sorted(seen.items()):
        over = {"mutual_tls": "mTLS", "kernel": "direct"}.get(edge.security, "plain text")
        table.add_row(
            edge.source, nodes.get(edge.source, "-"), edge.destination, nodes.get(edge.destination, "-"),
            over, _in_domain(edge.source_principal), _in_domain(edge.destination_principal), str(count),
        )  # fmt: skip
    return table


def shifts(found: list[Shift]) -> Table:
    """What pages looked like from outside after each route."""
    title = f"From v1 to v3: of {PAGES} pages from outside, after each route"
    table = Table(title=title, box=box.SIMPLE, title_justify="left")
    for column in ("route", *STARS.values()):
        table.add_column(column, justify="left" if column == "route" else "right")
    for one in found:
        table.add_row(f"gateway-api/{one.file}.yaml", *(str(one.pages[stars]) for stars in STARS))
    return table


def wire_summary(without: Watched, with_mesh: Watched) -> str:
    """Both phases on the wire, in one sentence each."""
    return (
        f"On the wire between the nodes: before the label {without.http} HTTP messages in plain text; "
        f"after it {with_mesh.http}, and {with_mesh.tunnel_bytes:,} bytes of TLS on port 15008."
    )


def _in_domain(principal: str) -> str:
    return principal.removeprefix("cluster.local/")


def _short(pod: str) -> str:
    parts = pod.rsplit("-", 2)
    return parts[0] if len(parts) == 3 else pod
