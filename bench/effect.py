"""From a write to the API server to its effect at a waypoint: ``python -m bench.effect``.

A lab of its own, httpbin behind a waypoint, and a client in the mesh that asks without a pause which change it sees.
Each change is one patch of a VirtualService, on an idle lab. Prints the time of the patch's own answer, and of the
first request that sees it, both from before the patch.
"""

import asyncio
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from meshapi import names
from meshkit import kube
from meshkit.kube import kinds
from meshlab import images, lab, state
from meshlab.progress import Progress

LAB, NS = "effect", "effect"
CHANGES, WARM_UP = 200, 10
_ROOT: Final = Path(__file__).parent.parent
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


def virtual_service(change: int) -> dict[str, Any]:
    """Return the route, which adds the number of the change to answers."""
    route = {"destination": {"host": "httpbin"}}
    rule = {"headers": {"response": {"set": {"x-change": str(change)}}}, "route": [route]}
    return {"metadata": {"name": "httpbin", "namespace": NS}, "spec": {"hosts": ["httpbin"], "http": [rule]}}


async def measure(kubeconfig: Path) -> list[tuple[float, float]]:
    """Return, for each change, the time of the API server's answer and of the effect, in seconds."""
    program = ["kubectl", f"--kubeconfig={kubeconfig}", "exec", "-n", NS, "deploy/curl", "--"]
    client = await asyncio.create_subprocess_exec(*program, "python3", "-c", _CLIENT, stdout=asyncio.subprocess.PIPE)
    assert client.stdout is not None
    found = []
    try:
        async with kube.Client(await kube.from_kubeconfig(kubeconfig)) as api:
            for change in range(1, CHANGES + WARM_UP + 1):
                await asyncio.sleep(random.uniform(0.2, 0.4))
                began = time.time()
                spec = {"spec": virtual_service(change)["spec"]}
                await api.patch(kinds.VIRTUAL_SERVICE, "httpbin", spec, NS)
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
    progress = Progress()
    change = lab.up(LAB, nodes=2, dual_stack=False, progress=progress, extra=[images.samples])
    kubeconfig = state.kubeconfig(LAB)

    def kubectl(*arguments: str, given: Mapping[str, Any] | None = None) -> None:
        command = ["kubectl", f"--kubeconfig={kubeconfig}", *arguments]
        subprocess.run(command, input=None if given is None else json.dumps(given), text=True, check=True)

    try:
        subprocess.run([_ROOT / "setup" / "lab-install", LAB, "--wait"], check=True)
        kubectl("create", "namespace", NS)
        kubectl("label", "namespace", NS, f"{names.DATAPLANE_MODE_LABEL}={names.DATAPLANE_MODE_AMBIENT}")
        for sample in ("httpbin/httpbin.yaml", "curl/curl.yaml"):
            kubectl("apply", "-n", NS, "-f", str(_ROOT / "samples" / sample))
        waypoint = ["waypoint", "apply", "-n", NS, "--enroll-namespace", "--wait", f"--kubeconfig={kubeconfig}"]
        subprocess.run([sys.executable, "-m", "meshctl", *waypoint], cwd=_ROOT, check=True)
        for name in ("httpbin", "curl"):
            kubectl("rollout", "status", "-n", NS, f"deploy/{name}")
        first = {"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", **virtual_service(0)}
        kubectl("apply", "-f", "-", given=first)
        found = asyncio.run(measure(kubeconfig))
    finally:
        if change is lab.Change.MADE:
            lab.down(LAB, progress=progress)
    print(f"{len(found)} changes of a route, one at a time")
    print(report("the API server has answered after", [answer for answer, _ in found]))
    print(report("a request has seen the change after", [effect for _, effect in found]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
