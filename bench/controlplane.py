"""``python -m bench.controlplane``: a large mesh on one control plane, from an event of the API to the last stream.

Three processes: the Kubernetes API (imitated on HTTP: a real one with a hundred thousand pods would use the machine up
by itself), the control plane as it is shipped, and the proxies' streams with TLS. Each second some pods are replaced by
others. An event's time runs from the moment it is written to the watch to the last stream's receipt of it.
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from asyncio.subprocess import PIPE
from contextlib import AsyncExitStack
from pathlib import Path

import yaml

from bench import cluster, pods
from bench.rows import resident_bytes
from meshapi import names
from tests.support.fake_kubernetes import FakeKubernetes, token_user
from tests.support.ports import free_port
from tests.support.waiting import until

SYNC_S = 1800.0
_PAGE = 2000
_SERVER_NAME = f"{names.CONTROL_PLANE_SERVICE}.{names.DEFAULT_NAMESPACE}.svc"


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.controlplane", description=__doc__.splitlines()[0])
    parser.add_argument("--pods", type=int, default=100_000)
    parser.add_argument("--services", type=int, default=10_000)
    parser.add_argument("--nodes", type=int, default=1_000)
    parser.add_argument("--streams", type=int, default=1_000)
    parser.add_argument("--rate", type=float, default=10.0, help="pods replaced a second (default: 10)")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long (default: 30)")
    return parser.parse_args()


def fill(api: FakeKubernetes, size: cluster.Size) -> None:
    spaces = [names.DEFAULT_NAMESPACE, *(f"team-{number}" for number in range(cluster.NAMESPACES))]
    for space in spaces:
        api.put("namespaces", {"metadata": {"name": space}})
    for node in cluster.nodes(size):
        api.put("nodes", node)
    for number in range(size.services):
        api.put("services", cluster.service(size, number))
    for number in range(size.pods):
        api.put("pods", cluster.pod(size, number))
    api.tokens["bench"] = token_user(names.DEFAULT_NAMESPACE, "ztunnel")
    api.expire()


class Process:
    """A process's use of the machine."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self._pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_mb(self) -> float:
        return resident_bytes(self._pid) / 1e6

    def peak_mb(self) -> float:
        lines = Path(f"/proc/{self._pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e3


async def started(folder: Path, api: FakeKubernetes, stack: AsyncExitStack) -> tuple[Process, str]:
    """Start the control plane; return it and its address."""
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "clusters": [{"name": "bench", "cluster": {"server": api.url}}],
                "users": [{"name": "bench", "user": {"token": "bench"}}],
                "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
                "current-context": "bench",
            }
        )
    )
    ports = {name: free_port() for name in ("xds", "metrics", "health", "admin")}
    arguments = [f"--{name}-address=127.0.0.1:{port}" for name, port in ports.items()]
    process = await pods.start(
        stack, sys.executable, "-m", "controlplane.app", f"--kubeconfig={kubeconfig}", "--log-level=warn", *arguments
    )
    return Process(process.pid), f"127.0.0.1:{ports['xds']}"


async def listening(address: str, within_s: float) -> None:
    host, port = address.split(":")
    async with asyncio.timeout(within_s):
        while True:
            try:
                _, writer = await asyncio.open_connection(host, int(port))
            except OSError:
                await asyncio.sleep(0.1)
            else:
                writer.close()
                return


async def churn(api: FakeKubernetes, size: cluster.Size, rate: float, seconds: float) -> dict[int, float]:
    """Replace pods at a rate; return when each new pod was sent."""
    loop, sent = asyncio.get_running_loop(), {}
    begin = loop.time()
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, begin + number / rate - loop.time()))
        old = cluster.pod(size, number)["metadata"]
        sent[number] = time.monotonic()
        api.put("pods", cluster.pod(size, size.pods + number, name=f"churn-{number}"))
        api.remove("pods", old["name"], old["namespace"])
    return sent


async def measure(chosen: argparse.Namespace) -> list[tuple[str, str]]:
    size = cluster.Size(chosen.pods, chosen.services, chosen.nodes)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="culvert-bench-")))
        api = await stack.enter_async_context(FakeKubernetes())
        api.page_size = _PAGE
        say(f"making {size.pods} pods and {size.services} services")
        fill(api, size)
        began = time.monotonic()
        plane, address = await started(folder, api, stack)
        await listening(address, SYNC_S)
        listed_s, listed_cpu, listed_mb = time.monotonic() - began, plane.cpu_s(), plane.resident_mb()
        say(f"control plane serves after {listed_s:.1f} s ({listed_cpu:.1f} s of CPU), {listed_mb:.0f} MB")
        await until(lambda: api.get("configmaps", names.ROOT_CERT_CONFIGMAP, "team-0"), within_s=30)
        spec = {
            "roots": api.objects["configmaps"]["team-0", names.ROOT_CERT_CONFIGMAP]["data"][names.ROOT_CERT_KEY],
            "server_name": _SERVER_NAME,
            "address": address,
            "streams": chosen.streams,
        }
        began, cpu = time.monotonic(), plane.cpu_s()
        proxies = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bench.proxies", json.dumps(spec),
            stdin=PIPE, stdout=PIPE, start_new_session=True, limit=64 << 20,
        )  # fmt: skip
        stack.push_async_callback(pods.end, proxies)
        await pods.ready(proxies, SYNC_S)
        synced_s, synced_cpu = time.monotonic() - began, plane.cpu_s() - cpu
        say(f"{chosen.streams} streams have everything after {synced_s:.1f} s, {plane.resident_mb():.0f} MB")
        began, cpu = time.monotonic(), plane.cpu_s()
        sent = await churn(api, size, chosen.rate, chosen.seconds)
        await asyncio.sleep(3.0)
        used = (plane.cpu_s() - cpu) / (time.monotonic() - began)
        assert proxies.stdin is not None
        assert proxies.stdout is not None
        proxies.stdin.write(b"\n")
        heard = json.loads(await asyncio.wait_for(proxies.stdout.readline(), 60))
        missed = [number for number in sent if heard["count"].get(str(number)) != chosen.streams]
        if missed:
            raise SystemExit(f"bench: events {missed[:10]} did not reach every stream")
        last = sorted((heard["last"][str(number)] - sent[number]) * 1000 for number in sent)
        first = sorted((heard["first"][str(number)] - sent[number]) * 1000 for number in sent)
        return [
            ("first list to serving", f"{listed_s:.1f} s, {listed_cpu:.1f} s of CPU"),
            ("all streams have everything", f"{synced_s:.1f} s, {synced_cpu:.1f} s of CPU"),
            ("event to first stream, p50 / p99", f"{statistics.median(first):.0f} / {percentile(first, 99):.0f} ms"),
            ("event to last stream, p50 / p99", f"{statistics.median(last):.0f} / {percentile(last, 99):.0f} ms"),
            ("responses for each event and stream", f"{heard['responses'] / len(sent) / chosen.streams:.2f}"),
            ("cores used under churn", f"{used:.2f}"),
            ("resident, listed / churning / peak",
             f"{listed_mb:.0f} / {plane.resident_mb():.0f} / {plane.peak_mb():.0f} MB"),
        ]  # fmt: skip


def percentile(ordered: list[float], percent: int) -> float:
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


async def main() -> None:
    chosen = options()
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    for title, figure in await measure(chosen):
        print(f"{title:40}{figure}")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)
