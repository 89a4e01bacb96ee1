"""From a write to the API server to its effect at a waypoint: ``python -m bench.effect``.

A lab of its own, httpbin behind a waypoint, and a client in the mesh that asks without a pause which change it sees.
Each change is one patch of a VirtualService, on an idle lab. Prints the time of the patch's own answer, and of the
first request that sees it, both from before the patch.
"""

import asyncio
import random
import statistics
import sys
import time
from typing import Any, Final

from meshkit import kube
from meshkit.kube import kinds
from meshlab import images
from tests.support import manifests
from tests.support.lab import ROOT, install, running
from tests.support.mesh import Mesh

LAB, NS = "effect", "effect"
CHANGES, WARM_UP = 200, 10
_CLIENT: Final = """
import http.client, time
connection, last = http.client.HTTPConnection("httpbin", 8000), None
while True:
    try:
        connection.request("GET", "/status/200")
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException):
        connection.close()
        continue
    seen = answer.getheader("x-change")
    if seen != last:
        print(seen, time.time(), flush=True)
        last = seen
"""


def route(change: int) -> dict[str, Any]:
    """Return the spec of the route, which adds the number of the change to answers."""
    destination = {"destination": {"host": "httpbin"}}
    rule = {"headers": {"response": {"set": {"x-change": str(change)}}}, "route": [destination]}
    return {"hosts": ["httpbin"], "http": [rule]}


async def measure(mesh: Mesh) -> list[tuple[float, float]]:
    """Return, for each change, the time of the API server's answer and of the effect, in seconds."""
    command = mesh.command(NS, "curl", "python3", "-c", _CLIENT)
    client = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert client.stdout is not None
    found = []
    try:
        async with kube.Client(await kube.from_kubeconfig(mesh.lab.kubeconfig)) as api:
            for change in range(1, CHANGES + WARM_UP + 1):
                await asyncio.sleep(random.uniform(0.2, 0.4))
                began = time.time()
                await api.patch(kinds.VIRTUAL_SERVICE, "httpbin", {"spec": route(change)}, NS)
                answered = time.time()
                async with asyncio.timeout(10):
                    while (line := (await client.stdout.readline()).split())[0] != str(change).encode():
                        pass
                found.append((answered - began, float(line[1]) - began))
    finally:
        client.kill()
        await client.wait()
    return found[WARM_UP:]


def report(what: str, times: list[float]) -> str:
    """Return one line: median, and the 99th percentile, in milliseconds."""
    high = sorted(times)[int(len(times) * 0.99)]
    return f"{what}: p50 {statistics.median(times) * 1e3:.0f} ms, p99 {high * 1e3:.0f} ms"


def main() -> int:
    with running(LAB, extra=[images.samples]) as lab:
        install(lab)
        mesh = Mesh(lab)
        mesh.namespace(NS, enrolled=True)
        lab.apply(*(ROOT / "samples" / name for name in ("httpbin/httpbin.yaml", "curl/curl.yaml")), namespace=NS)
        mesh.waypoint(NS)
        lab.rolled_out("httpbin", "curl", namespace=NS)
        lab.apply(manifests.item("VirtualService", "networking.istio.io/v1", "httpbin", **route(0)), namespace=NS)
        found = asyncio.run(measure(mesh))
    print(f"{len(found)} changes of a route, one at a time")
    print(report("the API server has answered after", [answer for answer, _ in found]))
    print(report("a request has seen the change after", [effect for _, effect in found]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
