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
from collections.abc import Callable
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


async def measure(
    api: kube.Client,
    client: list[str],
    kind: kinds.Kind,
    name: str,
    spec: Callable[[int], dict[str, Any]],
    changes: int,
) -> list[tuple[float, float]]:
    """Return, for each change of an object, the time of the API server's answer and of the effect, in seconds.

    Args:
        api: of the lab.
        client: a command that prints ``x-change`` of answers and the time, when it is another one.
        kind: of the object, which is in the bench's namespace.
        name: of the object.
        spec: returns its spec with the number of a change.
        changes: how many are measured, after some to warm up.
    """
    running = await asyncio.create_subprocess_exec(*client, stdout=asyncio.subprocess.PIPE)
    assert running.stdout is not None
    found = []
    first = int(time.time())  # a number that the object has not had
    try:
        for change in range(first, first + changes + WARM_UP):
            await asyncio.sleep(random.uniform(0.2, 0.4))
            began = time.time()
            await api.patch(kind, name, {"spec": spec(change)}, NS)
            answered = time.time()
            async with asyncio.timeout(30):
                while (line := (await running.stdout.readline()).split())[0] != str(change).encode():
                    pass
            found.append((answered - began, float(line[1]) - began))
    finally:
        running.kill()
        await running.wait()
    return found[WARM_UP:]


async def _measure(mesh: Mesh) -> list[tuple[float, float]]:
    client = mesh.command(NS, "curl", "python3", "-c", _CLIENT)
    async with kube.Client(await kube.from_kubeconfig(mesh.lab.kubeconfig)) as api:
        return await measure(api, client, kinds.VIRTUAL_SERVICE, "httpbin", route, CHANGES)


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
        found = asyncio.run(_measure(mesh))
    print(f"{len(found)} changes of a route, one at a time")
    print(report("the API server has answered after", [answer for answer, _ in found]))
    print(report("a request has seen the change after", [effect for _, effect in found]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
