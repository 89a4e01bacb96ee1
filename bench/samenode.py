"""``python -m bench.samenode``: two pods of one node: bare TCP, captured and tunnelled, captured and direct.

Each contender has two pods of its own on one bridge; the tunnel of a node is one process. Rounds alternate; figures are
medians over the rounds, ratios the medians of the rounds' ratios to bare TCP. The hooks are at the machine's root only
while a contender is measured that needs them: all others would pay for them too.
"""

import argparse
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import capture, contenders, pods, session
from bench.rows import ROWS, Figure, Run
from meshkit.linux import cgroups, netns, syscalls
from nodeagent.capture.ebpf.node import EbpfNode
from nodeagent.capture.ebpf.pod import EbpfCapture
from nodeagent.capture.nftables.pod import NftablesCapture
from nodeagent.capture.pod_network import PodNetwork
from tests.support.authority import TestAuthority

BARE, NFTABLES, EBPF, DIRECT = "bare TCP", "nftables, tunnel", "ebpf, tunnel", "ebpf, direct"
FIGURES: Final = ("rtt-64-p50", "rtt-16k-p50", "bulk-1", "connect-1")
_CONGESTION: Final = Path("/proc/sys/net/ipv4/tcp_congestion_control")
_LEARNING_S: Final = 0.2


@dataclass
class Way:
    """Two pods, and what is at the cgroup while they are measured."""

    contender: contenders.Contender
    node: EbpfNode | None = None


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.samenode", description="Measure pods of one node.")
    parser.add_argument("--rounds", type=int, default=7, help="rounds (default: 7)")
    parser.add_argument("--seconds", type=float, default=0.5, help="seconds for each figure (default: 0.5)")
    parser.add_argument("--workloads", type=int, default=0, help="workloads of other nodes (default: none)")
    parser.add_argument("--rules", type=int, default=0, help="rules of policies for the server (default: none)")
    return parser.parse_args()


async def ways(stack: AsyncExitStack, load: Path, folder: Path, crowd: Sequence[contenders.Resource]) -> list[Way]:
    bridge = pods.Bridge(stack)
    root = cgroups.unified_root()
    if root is None:
        raise SystemExit("bench: no unified cgroup hierarchy is mounted")
    syscalls.mount("bpf", folder, "bpf")
    stack.callback(syscalls.unmount, folder)
    made = [Way(await contenders.bare(stack, bridge, load))]
    for name, limit in ((NFTABLES, None), (EBPF, 0), (DIRECT, 10_000)):
        key = name.replace(", ", "-")
        node = None if limit is None else EbpfNode(folder / key, root, direct_limit=limit)
        backend = NftablesCapture() if node is None else EbpfCapture(node, PodNetwork())
        if node is not None:
            node.attach_tunnel(root)
            stack.callback(node.uninstall)
        made.append(Way(await meshed(stack, bridge, load, folder, key, backend, direct=bool(limit), crowd=crowd), node))
        made[-1].contender.name = name
    return made


async def meshed(
    stack: AsyncExitStack,
    bridge: pods.Bridge,
    load: Path,
    folder: Path,
    key: str,
    backend: NftablesCapture | EbpfCapture,
    *,
    direct: bool,
    crowd: Sequence[contenders.Resource],
) -> contenders.Contender:
    """Two pods with one tunnel process, as on one node."""
    both = bridge.pod(f"{key}-client"), bridge.pod(f"{key}-server")
    contender = contenders.Contender(key, *both)
    await contenders.serve(stack, contender.server, load)
    with tempfile.TemporaryDirectory(prefix="culvert-bench-") as files:
        process = await contenders.engine(
            stack, Path(files), TestAuthority(), both, both,
            capture=lambda pod: capture.capture(pod, backend), direct=folder / key if direct else None,
            crowd=crowd,
        )  # fmt: skip
    contender.proxies.append(process)
    return contender


async def measure(chosen: argparse.Namespace) -> tuple[list[str], dict[str, dict[str, list[float]]]]:
    load = session.build_load()
    run = Run(load, chosen.seconds)
    rows = [row for row in ROWS if any(figure.key in FIGURES for figure in row.figures)]
    results: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="culvert-bench-")))
        everyone = await ways(stack, load, folder, contenders.crowd(chosen.workloads, chosen.rules))
        for number in range(chosen.rounds):
            session.progress(f"round {number + 1} of {chosen.rounds}")
            for row in rows:
                for way in everyone:
                    with _hooks(way.node):
                        if number == 0:
                            await Run(load, _LEARNING_S).client(way.contender, "rtt", 64)
                        figures = await row.measure(run, way.contender)
                    for key in FIGURES:
                        if key in figures:
                            results[key][way.contender.name].append(figures[key])
        names = [way.contender.name for way in everyone]
    return names, results


class _hooks:
    """A node's hooks at the cgroup, inside the block."""

    def __init__(self, node: EbpfNode | None) -> None:
        self._node = node

    def __enter__(self) -> None:
        if self._node is not None:
            self._node.attach()

    def __exit__(self, *_: object) -> None:
        if self._node is not None:
            self._node.detach()


def report(columns: list[str], results: dict[str, dict[str, list[float]]]) -> None:
    figures: dict[str, Figure] = {figure.key: figure for row in ROWS for figure in row.figures}
    control = netns.run(Path("/proc/self/ns/net"), _CONGESTION.read_text).strip()
    print(f"congestion control: {control}; ratios to {BARE}, medians of {len(results[FIGURES[0]][BARE])} rounds")
    print("".join([" " * 44, *(f"{name:>24}" for name in columns)]))
    for key in FIGURES:
        found = results[key]
        cells = []
        for name in columns:
            ratio = statistics.median(one / base for one, base in zip(found[name], found[BARE], strict=True))
            cells.append(f"{statistics.median(found[name]):,.{figures[key].digits}f}  {ratio:.2f}".rjust(24))
        print(figures[key].title.ljust(44) + "".join(cells))


async def main() -> None:
    chosen = options()
    session.check()
    report(*await measure(chosen))


if __name__ == "__main__":
    session.run(main())
