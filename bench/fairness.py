"""``python -m bench.fairness``: what a pod that floods costs its neighbours on the same node.

Two pairs of pods across two nodes: a neighbour that makes small round trips, and one that floods. They are measured
twice side by side: in the mesh, with one tunnel a node as installed, and outside of it, where a flood costs what it
costs because all programs share the machine's cores.
"""

import argparse
import asyncio
import statistics
import tempfile
from collections import defaultdict
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from bench import contenders, pods, session
from bench.rows import Run, resident_bytes
from tests.support.authority import TestAuthority

SIZE = 64
ESTABLISH_S = 0.3
FLOOD_S = 600.0


@dataclass(frozen=True)
class Flood:
    """What the flooding pod does: a mode of the load generator and its number."""

    name: str
    words: tuple[str, ...]
    stalls: bool = False
    """Whether the flood stalls once it has reached its height."""


NONE = Flood("nothing", ())
FLOODS = (
    NONE,
    Flood("8 bulk connections", ("bulk", "8")),
    Flood("64 clients that connect", ("connect", "64")),
    Flood("500 busy connections", ("swarm", "500")),
    Flood("200 connections without a reader", ("stuff", "200"), stalls=True),
)


@dataclass
class Mesh:
    """Pairs of pods, and the tunnels between, if any."""

    neighbour: contenders.Contender
    flooding: contenders.Contender
    deaf: contenders.Contender


async def mesh(
    stack: AsyncExitStack, bridge: pods.Bridge, load: Path, folder: Path, *, tunnels: bool, bandwidth: int, idle: bool
) -> Mesh:
    """Make both pairs, with a tunnel a node or without."""
    kind = "mesh" if tunnels else "bare"
    names = ("near-client", "near-server", "flood-client", "flood-server", "deaf-server")
    near, server, flood, far, deaf = (bridge.pod(f"{kind}-{name}") for name in names)
    flood, far, deaf = (replace(pod, idle=idle) for pod in (flood, far, deaf))
    for pod in (server, far):
        await contenders.serve(stack, pod, load)
    await contenders.serve(stack, deaf, load, "deaf")
    everyone = (near, server, flood, far, deaf)
    authority = TestAuthority()
    nodes = [(near, flood), (server, far, deaf)] if tunnels else []
    proxies = [await contenders.engine(stack, folder, authority, node, everyone, bandwidth=bandwidth) for node in nodes]
    pairs = ((near, server), (flood, far), (flood, deaf))
    return Mesh(*(contenders.Contender(kind, client, server, proxies) for client, server in pairs))


async def measure(run: Run, mesh: Mesh, flood: Flood) -> dict[str, float]:
    """Return the neighbour's latency, µs, and the flooded tunnels' memory, MB, while ``flood`` goes on."""
    async with AsyncExitStack() as stack:
        if flood.words:
            pair = mesh.deaf if flood.stalls else mesh.flooding
            what, number = flood.words
            # It is ended after the measurement: small requests that take long must not outlast it.
            words = (what, pair.server.ip, str(contenders.PORT), number, str(FLOOD_S))
            process = await pair.client.run(stack, str(run.load), *words)
            if flood.stalls:
                await pods.ready(process, 60)
            else:
                await asyncio.sleep(ESTABLISH_S)
        figures = await run.client(mesh.neighbour, "rtt", SIZE)
        memory = sum(resident_bytes(pid) for pid in mesh.flooding.proxies) / max(len(mesh.flooding.proxies), 1) / 1e6
    await asyncio.sleep(ESTABLISH_S)
    return {"p50": figures["p50_us"], "p99": figures["p99_us"], "memory": memory}


async def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.fairness", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--only", action="append", choices=[flood.name for flood in FLOODS[1:]], help="only this flood")
    parser.add_argument(
        "--bandwidth", type=int, default=0, help="bytes a second that each pod may carry (default: any)"
    )
    parser.add_argument(
        "--idle", action="store_true", help="the flooding programs (not the tunnels) get the processor last"
    )
    chosen = parser.parse_args()
    session.check()
    run = Run(session.build_load(), chosen.seconds)
    floods = [flood for flood in FLOODS if flood is NONE or not chosen.only or flood.name in chosen.only]
    results: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="culvert-bench-")))
        bridge = pods.Bridge(stack)
        meshes = [
            await mesh(stack, bridge, run.load, folder, tunnels=tunnels, bandwidth=chosen.bandwidth, idle=chosen.idle)
            for tunnels in (True, False)
        ]
        for number in range(chosen.rounds):
            session.progress(f"round {number + 1} of {chosen.rounds}")
            for flood in floods:
                for each in meshes:
                    for key, value in (await measure(run, each, flood)).items():
                        results[flood.name, each.neighbour.name, key].append(value)
    medians = {key: statistics.median(values) for key, values in results.items()}
    columns = ("p50 mesh", "bare", "p99 mesh", "bare", "x quiet", "bare", "MB")
    print(f"{'the other pod':36}", *(f"{column:>9}" for column in columns))
    for flood in floods:
        mine, bare = (
            {key: medians[flood.name, kind, key] for key in ("p50", "p99", "memory")} for kind in ("mesh", "bare")
        )
        moved = [_ratio(results[flood.name, kind, "p99"], results[NONE.name, kind, "p99"]) for kind in ("mesh", "bare")]
        micros = (mine["p50"], bare["p50"], mine["p99"], bare["p99"])
        row = [f"{value:9.0f}" for value in micros] + [f"{value:9.2f}" for value in moved]
        print(f"{flood.name:36}", *row, f"{mine['memory']:9.0f}")


def _ratio(flooded: list[float], quiet: list[float]) -> float:
    return statistics.median(one / other for one, other in zip(flooded, quiet, strict=True))


if __name__ == "__main__":
    session.run(main())
