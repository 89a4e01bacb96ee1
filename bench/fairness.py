"""``python -m bench.fairness``: what a pod that floods costs its neighbours on the same node.

Two pairs of pods across two nodes: a neighbour that makes small round trips, and one that floods. They are measured
twice side by side: with one tunnel a node, as installed, and with tunnels of their own. The latter is what the flood
costs because client, servers and tunnels share the machine's cores; what the former adds is the price of sharing.
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


@dataclass(frozen=True)
class Flood:
    """What the flooding pod does: a mode of the load generator and its number."""

    name: str
    words: tuple[str, ...]
    stands: bool = False
    """Whether it stands still once it has reached its height."""


NONE = Flood("nothing", ())
FLOODS = (
    NONE,
    Flood("8 bulk connections", ("bulk", "8")),
    Flood("64 clients that connect", ("connect", "64")),
    Flood("500 busy connections", ("swarm", "500")),
    Flood("200 connections that nobody reads", ("stuff", "200"), stands=True),
)


@dataclass
class Mesh:
    """Two pairs of pods, and the tunnels between."""

    neighbour: contenders.Contender
    flooding: contenders.Contender
    deaf: contenders.Contender


async def mesh(
    stack: AsyncExitStack, bridge: pods.Bridge, load: Path, folder: Path, *, shared: bool, bandwidth: int, idle: bool
) -> Mesh:
    """Make both pairs, with one tunnel a node or with two."""
    kind = "shared" if shared else "apart"
    names = ("near-client", "near-server", "flood-client", "flood-server", "deaf-server")
    near, server, flood, far, deaf = (bridge.pod(f"{kind}-{name}") for name in names)
    flood, far, deaf = (replace(pod, idle=idle) for pod in (flood, far, deaf))
    for pod in (server, far):
        await contenders.serve(stack, pod, load)
    await contenders.serve(stack, deaf, load, "deaf")
    everyone = (near, server, flood, far, deaf)
    authority = TestAuthority()
    nodes = [(near, flood), (server, far, deaf)] if shared else [(near,), (flood,), (server,), (far, deaf)]
    proxies = [await contenders.engine(stack, folder, authority, node, everyone, bandwidth=bandwidth) for node in nodes]
    ours, theirs = (proxies, proxies) if shared else (proxies[::2], proxies[1::2])
    return Mesh(
        contenders.Contender(kind, near, server, ours),
        contenders.Contender(kind, flood, far, theirs),
        contenders.Contender(kind, flood, deaf, theirs),
    )


async def measure(run: Run, mesh: Mesh, flood: Flood) -> dict[str, float]:
    """Return the neighbour's latency, µs, and the flooded tunnels' memory, MB, while ``flood`` goes on."""
    async with AsyncExitStack() as stack:
        if flood.words:
            pair = mesh.deaf if flood.stands else mesh.flooding
            what, number = flood.words
            words = (what, pair.server.ip, str(contenders.PORT), number, str(run.seconds + 2 * ESTABLISH_S))
            process = await pair.client.run(stack, str(run.load), *words)
            if flood.stands:
                await pods.ready(process, 60)
            else:
                await asyncio.sleep(ESTABLISH_S)
        figures = await run.client(mesh.neighbour, "rtt", SIZE)
        memory = sum(resident_bytes(pid) for pid in mesh.flooding.proxies) / len(mesh.flooding.proxies) / 1e6
        if flood.words and not flood.stands:
            await asyncio.wait_for(process.communicate(), 30)
    await asyncio.sleep(ESTABLISH_S)
    return {"p50": figures["p50_us"], "p99": figures["p99_us"], "memory": memory}


async def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.fairness", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--only", action="append", choices=[flood.name for flood in FLOODS], help="only this flood")
    parser.add_argument(
        "--bandwidth", type=int, default=0, help="bytes a second that each pod may carry (default: any)"
    )
    parser.add_argument(
        "--idle", action="store_true", help="the flooding programs (not the tunnels) get the processor last"
    )
    chosen = parser.parse_args()
    session.check()
    run = Run(session.build_load(), chosen.seconds)
    floods = [flood for flood in FLOODS if not chosen.only or flood.name in chosen.only]
    results: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="culvert-bench-")))
        bridge = pods.Bridge(stack)
        meshes = [
            await mesh(stack, bridge, run.load, folder, shared=shared, bandwidth=chosen.bandwidth, idle=chosen.idle)
            for shared in (True, False)
        ]
        for number in range(chosen.rounds):
            session.progress(f"round {number + 1} of {chosen.rounds}")
            for flood in floods:
                for each in meshes:
                    for key, value in (await measure(run, each, flood)).items():
                        results[flood.name, each.neighbour.name, key].append(value)
    medians = {key: statistics.median(values) for key, values in results.items()}
    print(f"{'the other pod':36}{'p50 shared':>11}{'apart':>8}{'p99 shared':>12}{'apart':>8}{'ratio':>8}{'MB':>7}")
    for flood in floods:
        shared, apart = (
            {key: medians[flood.name, kind, key] for key in ("p50", "p99", "memory")} for kind in ("shared", "apart")
        )
        pairs = zip(results[flood.name, "shared", "p99"], results[flood.name, "apart", "p99"], strict=True)
        ratio = statistics.median(mine / theirs for mine, theirs in pairs)
        print(
            f"{flood.name:36}{shared['p50']:11.0f}{apart['p50']:8.0f}{shared['p99']:12.0f}{apart['p99']:8.0f}"
            f"{ratio:8.2f}{shared['memory']:7.0f}"
        )


if __name__ == "__main__":
    session.run(main())
