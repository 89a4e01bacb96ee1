"""Requests through a waypoint and through a plain reverse proxy: ``python -m bench.l7 [--rounds 3] [--seconds 3]``.

A lab of its own with two worlds: in the mesh, client, ztunnel, waypoint, ztunnel, server; outside of it, client, Envoy
with nothing but a route, server; and the same without a proxy. Kinds of requests alternate over the ways in each round;
medians are printed. Rates are of 16 connections that make what they can, times are at half of that rate. The waypoint's
proxy is Envoy, too: these are the figures that another one has to beat.
"""

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.table import Table

from bench.l7 import load, world
from bench.l7.load import DIRECT, REVERSE, WAYPOINT, Case, Sample, Way
from meshlab import product
from meshlab.progress import Progress
from tests.support.lab import install, running
from tests.support.mesh import Mesh
from tests.support.program_images import fortio
from tests.support.tokens import TokenIssuer

LAB = "l7"
SIZE = 16_384
H2 = ("-h2", "-stdclient")
CASES = (
    Case("HTTP/1.1, 0 B"),
    Case("HTTP/1.1, 16 kB", size=SIZE),
    Case("HTTP/2, 0 B", H2),
    Case("HTTP/2, 16 kB", H2, size=SIZE),
    Case("gRPC, 0 B", is_grpc=True),
    Case("gRPC, 16 kB", size=SIZE, is_grpc=True),
)
CONNECTIONS = 1000


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.l7", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--proxy", choices=["envoy"], default="envoy", help="what runs in the waypoint")
    parser.add_argument("--rounds", type=int, default=3, help="how often each kind of requests is measured")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each load lasts")
    options = parser.parse_args()
    with running(LAB, extra=[fortio]) as lab:
        install(lab)
        mesh = Mesh(lab)
        world.deploy(mesh, product.waypoint_image(Progress().say).name)
        rows = list(_measured(mesh, options.rounds, options.seconds))
        memory = [(way.name, load.memory_kb(mesh, way, CONNECTIONS)) for way in (REVERSE, WAYPOINT)]
    _show(rows, memory)
    return 0


Row = tuple[str, Way, Sample]


def _measured(mesh: Mesh, rounds: int, seconds: float) -> Iterator[Row]:
    """Yield a row for each kind of requests and way, then those of what only a waypoint has."""
    ways = (DIRECT, REVERSE, WAYPOINT)
    samples: dict[tuple[Case, Way], list[Sample]] = {(case, way): [] for case in CASES for way in ways}
    for number in range(rounds):
        for (case, way), found in samples.items():
            _say(f"round {number + 1}: {case.name}, {way.name}")
            found.append(load.measure(mesh, way, case, seconds))
    yield from ((case.name, way, load.median(found)) for (case, way), found in samples.items())
    issuer = TokenIssuer()
    demanding = Case("a token in each request", (f"-H=authorization: Bearer {issuer.token({})}",))
    for case, items in (
        (Case(f"{world.MANY} routes"), [world.many_routes()]),
        (Case(f"{world.MANY} authorization rules"), [world.many_rules()]),
        (demanding, world.tokens(issuer)),
    ):
        _say(case.name)
        with _applied(mesh, items):
            found = [load.measure(mesh, WAYPOINT, case, seconds) for _ in range(rounds)]
        yield case.name, WAYPOINT, load.median(found)


@contextlib.contextmanager
def _applied(mesh: Mesh, items: list[world.Item]) -> Iterator[None]:
    """Apply objects and wait until the waypoint has them."""
    mesh.lab.apply(*(text for _, text in items), namespace=world.MESH)
    for kind, _ in items:
        mesh.in_force(kind, world.NAME, world.MESH)
    yield
    for kind, _ in items:
        mesh.lab.kubectl("delete", kind, world.NAME, "-n", world.MESH)


def _show(rows: list[Row], memory: list[tuple[str, float]]) -> None:
    references = {name: sample for name, way, sample in rows if way is REVERSE}
    table = Table("requests", "way", "a second", "of reverse proxy", "CPU µs", "p50 ms", "p99 ms", box=None)
    for name, way, sample in rows:
        reference = references.get(name, references[CASES[0].name])
        cells = (
            f"{sample.rate:.0f}",
            f"{sample.rate / reference.rate:.2f}",
            f"{sample.cpu_us:.0f}" if way.proxy else "",
        )
        table.add_row(name, way.name, *cells, f"{sample.p50_ms:.2f}", f"{sample.p99_ms:.2f}")
    out = Console(width=120, highlight=False)
    out.print(table)
    for name, found in memory:
        out.print(f"memory for each of {CONNECTIONS} connections, {name}: {found:.1f} kB")


_say: Callable[[str], None] = Console(stderr=True, highlight=False).print


if __name__ == "__main__":
    sys.exit(main())
