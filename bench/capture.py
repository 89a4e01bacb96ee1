"""``python -m bench.capture``: what it costs a new connection to be captured, and others that hooks are there.

One pod for each way, with a server in the tunnel's place and a client that connects, exchanges a byte and closes, again
and again. Uncaptured, the client names the server; captured, an address outside. Rounds alternate, ratios are medians
of the rounds' ratios.
"""

import argparse
import asyncio
import json
import os
import statistics
import tempfile
from collections import defaultdict
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench import pods, session
from meshapi import names
from meshkit.linux import cgroups, syscalls
from nodeagent.capture.ebpf.node import EbpfNode
from nodeagent.capture.ebpf.pod import EbpfCapture
from nodeagent.capture.nftables.pod import NftablesCapture
from nodeagent.capture.plan import PodPlan
from nodeagent.capture.pod import PodCapture, Sandbox
from nodeagent.capture.pod_network import PodNetwork
from nodeagent.discovery.enrolment import PodInfo

OUTSIDE = "10.78.0.250"
"""An address on the pods' network that no pod has."""
HOOKED, BARE = "uncaptured, hooks attached", "uncaptured"


@dataclass
class Way:
    """A pod, and how its connections reach the server."""

    name: str
    pod: pods.Pod
    target: str
    rates: list[float] = field(default_factory=list)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.capture", description="Measure what capture costs.")
    parser.add_argument("--rounds", type=int, default=15, help="rounds (default: 15)")
    parser.add_argument("--seconds", type=float, default=0.5, help="seconds for each figure (default: 0.5)")
    parser.add_argument("--clients", type=int, default=1, help="clients at a time (default: 1)")
    return parser.parse_args()


def capture(pod: pods.Pod, backend: PodCapture) -> None:
    descriptor = os.open(pod.netns_path, os.O_RDONLY)
    try:
        info = PodInfo(pod.name, "bench", pod.name, pod.name, {}, {}, (pod.ip,), host_network=False, terminal=False)
        backend.prepare(Sandbox(info, descriptor))
        backend.apply(Sandbox(info, descriptor), PodPlan())
    finally:
        os.close(descriptor)


async def rate(load: Path, way: Way, chosen: argparse.Namespace) -> float:
    """Return the new connections in a second."""
    async with AsyncExitStack() as stack:
        words = (str(load), "connect", way.target, str(names.OUTBOUND_PORT), str(chosen.clients), str(chosen.seconds))
        client = await way.pod.run(stack, *words)
        out, _ = await asyncio.wait_for(client.communicate(), chosen.seconds + 30)
        if client.returncode != 0:
            raise SystemExit(f"bench: {way.name} failed; see its words above")
        return float(json.loads(out)["per_s"])


def hooks(folder: Path) -> EbpfNode:
    syscalls.mount("bpf", folder, "bpf")
    root = cgroups.unified_root()
    if root is None:
        raise SystemExit("bench: no unified cgroup hierarchy is mounted")
    return EbpfNode(folder / "culvert", root)


async def bench(chosen: argparse.Namespace) -> None:
    load = session.build_load()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="culvert-bench-")))
        node = hooks(folder)
        stack.callback(syscalls.unmount, folder)
        bridge = pods.Bridge(stack)
        ways = [
            Way(name, bridge.pod(name.replace(" ", "-").replace(",", "")), OUTSIDE)
            for name in (BARE, HOOKED, "ebpf", "nftables")
        ]
        for way in ways:
            server = await way.pod.run(stack, str(load), "serve", "0.0.0.0", str(names.OUTBOUND_PORT))
            await pods.ready(server)
            if way.name in (BARE, HOOKED):
                way.target = way.pod.ip
        capture(ways[2].pod, EbpfCapture(node, PodNetwork()))
        capture(ways[3].pod, NftablesCapture())
        for number in range(chosen.rounds):
            session.progress(f"round {number + 1} of {chosen.rounds}")
            for way in ways:
                # All others are measured without hooks at the machine's cgroup: they would pay for them too.
                if way.name in (HOOKED, "ebpf"):
                    node.attach()
                way.rates.append(await rate(load, way, chosen))
                node.detach()
    report(ways)


def report(ways: list[Way]) -> None:
    bare = ways[0].rates
    ratios: dict[str, float] = defaultdict(float)
    for way in ways:
        ratios[way.name] = statistics.median(one / base for one, base in zip(way.rates, bare, strict=True))
    for way in ways:
        rate_of = statistics.median(way.rates)
        print(f"{way.name:28} {rate_of:9,.0f} connections/s   {ratios[way.name]:.3f}   {1e9 / rate_of:9,.0f} ns each")


def main() -> None:
    session.check()
    session.run(bench(options()))


if __name__ == "__main__":
    main()
