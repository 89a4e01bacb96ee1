"""What enrolment adds to the start of a pod's sandbox: ``python -m bench.sandbox LAB`` (Culvert installed, root).

Pods are started on one node of a lab, alternately in a namespace outside the mesh and in one of it. The time is the
container runtime's own: from its request for a sandbox to its answer, which covers the network plugins.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from meshlab import state

NODE = "node1"
OUTSIDE, INSIDE = "bench-outside", "bench-inside"
IMAGE = "localhost/culvert/samples:1"
_LINE = re.compile(r'time="([^"]+)".*RunPodSandbox for &PodSandboxMetadata\{Name:(p\d+),.*?Namespace:([\w-]+),')


def main() -> int:
    """Measure and print; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("lab", help="name of a lab with Culvert and the samples' image")
    parser.add_argument("--rounds", type=int, default=10, help="pods of each kind")
    arguments = parser.parse_args()
    kubectl = [str(Path(sys.executable).with_name("kubectl")), f"--kubeconfig={state.kubeconfig(arguments.lab)}"]
    began = datetime.now(UTC)
    try:
        _namespaces(kubectl)
        for number in range(arguments.rounds):
            for namespace in (OUTSIDE, INSIDE):
                _start(kubectl, namespace, f"p{number}")
    finally:
        _run([*kubectl, "delete", "namespace", OUTSIDE, INSIDE, "--ignore-not-found", "--wait=false"])
    took = _read(state.folder(arguments.lab) / "logs" / f"{NODE}-containerd.log", began)
    outside, inside = (median(took[namespace]) for namespace in (OUTSIDE, INSIDE))
    print(f"sandbox start, median of {arguments.rounds}, ms: outside {outside:.0f}, enrolled {inside:.0f}")
    print(f"enrolment adds {inside - outside:.0f} ms")
    return 0


def _namespaces(kubectl: list[str]) -> None:
    for name in (OUTSIDE, INSIDE):
        _run([*kubectl, "create", "namespace", name])
    _run([*kubectl, "label", "namespace", INSIDE, "istio.io/dataplane-mode=ambient"])


def _start(kubectl: list[str], namespace: str, name: str) -> None:
    container = {"name": "main", "image": IMAGE, "command": ["sleep", "infinity"]}
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"nodeName": NODE, "terminationGracePeriodSeconds": 0, "containers": [container]},
    }  # fmt: skip
    _run([*kubectl, "apply", "-n", namespace, "-f", "-"], json.dumps(pod))
    _run([*kubectl, "wait", "-n", namespace, "--for=condition=Ready", f"pod/{name}", "--timeout=60s"])
    time.sleep(0.3)  # one pod's last work must not be in the next one's time


def _read(log: Path, since: datetime) -> dict[str, list[float]]:
    """Return the times in milliseconds by namespace; the runtime writes a line at the request and one at the answer."""
    first: dict[tuple[str, str], datetime] = {}
    took: dict[str, list[float]] = {OUTSIDE: [], INSIDE: []}
    for found in filter(None, map(_LINE.search, log.read_text().splitlines())):
        at, key = datetime.fromisoformat(found[1][:26] + "+00:00"), (found[3], found[2])
        if at < since or key[0] not in took:
            continue
        if key in first:
            took[key[0]].append((at - first.pop(key)).total_seconds() * 1000)
        else:
            first[key] = at
    return took


def _run(command: list[str], stdin: str | None = None) -> None:
    subprocess.run(command, input=stdin, text=True, stdout=subprocess.DEVNULL, check=True)


if __name__ == "__main__":
    raise SystemExit(main())
