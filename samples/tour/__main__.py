"""Runs the tour (``make lab``): nothing here is special, every step is a command that a user could type."""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from samples.tour import commands, edge, mesh, table, wire

LAB = "lab"
NAMESPACE = "bookinfo"
ROOT = Path(__file__).parent.parent.parent
REQUESTS = 8
_WIDTH = 170
"""Columns that the tables need; a narrower terminal wraps."""

_out = Console(highlight=False, soft_wrap=True, width=max(Console().width, _WIDTH))


def main(hosts: Sequence[str]) -> int:
    """Run every step; return the exit status.

    Args:
        hosts: addresses of the machines that the lab runs on; none: machines made of namespaces.
    """
    started = time.monotonic()

    def step(text: str) -> None:
        _out.print(f"[dim]{time.monotonic() - started:6.1f} s[/dim]  {text}")

    try:
        where = [word for host in hosts for word in ("--host", host)]
        step(f"a two-node Kubernetes  ({' '.join(['culvert lab up --samples', *where])})")
        commands.culvert("lab", "up", "--name", LAB, "--samples", *where)
        kube = commands.Kubectl(LAB)
        install = ["setup/lab-install", LAB, "--wait", "--set", "meshConfig.waypoints=AUTOMATIC"]
        step(f"Culvert: its image into the nodes, then culvert install  ({' '.join(install)})")
        commands.run([str(ROOT / install[0]), *install[1:]])
        step("bookinfo  (kubectl apply -f samples/bookinfo/platform/kube/bookinfo.yaml -f samples/curl)")
        kube.namespace(NAMESPACE)
        kube.apply(
            ROOT / "samples/bookinfo/platform/kube/bookinfo.yaml", ROOT / "samples" / "curl" / "curl.yaml", NAMESPACE
        )
        kube.rolled_out(NAMESPACE)

        pods = kube.pods(NAMESPACE)
        step(f"{REQUESTS} product pages without the mesh, watched on the wire between the nodes")
        with wire.watch(LAB) as before:
            _visit(kube)
        step(f"kubectl label namespace {NAMESPACE} istio.io/dataplane-mode=ambient")
        kube.label(NAMESPACE, "istio.io/dataplane-mode=ambient")
        kube.captured(NAMESPACE, len(pods))
        step(f"{REQUESTS} product pages with the mesh")
        seen_before = mesh.connections(kube)
        with wire.watch(LAB) as after:
            _visit(kube)
        seen = mesh.since(seen_before, mesh.connections(kube))
        step("the page from outside  (culvert lab addon metallb; kubectl apply -f .../bookinfo-gateway.yaml)")
        url = edge.publish(kube, LAB, NAMESPACE)
        shifts = []
        for one in edge.shift(kube, NAMESPACE, url):
            step(f"{one.file}  (kubectl apply -f samples/bookinfo/gateway-api/{one.file}.yaml)")
            shifts.append(one)
    except (commands.Failed, wire.NoCapture) as failed:
        _out.print(f"[red]{failed}[/red]")
        return 1
    step("done\n")
    _out.print(table.before(before.connections(), pods))
    _out.print(table.after(seen, kube.nodes_of_workloads(NAMESPACE)))
    _out.print(table.wire_summary(before, after))
    _out.print(table.shifts(shifts))
    _out.print(f"\nThe product page, for the browser of this computer: {url}")
    _out.print(_further(kube))
    is_protected = seen and after.http == 0 and before.http > 0
    return 0 if is_protected and set(shifts[-1].pages) == {"red"} else 1


def _visit(kube: commands.Kubectl) -> None:
    page = f"http://productpage.{NAMESPACE}:9080/productpage"
    script = f"for i in $(seq {REQUESTS}); do curl -fsS -m 5 -o /dev/null {page} || exit 1; done"
    kube.run("exec", "-n", NAMESPACE, "deploy/curl", "--", "sh", "-c", script)


def _further(kube: commands.Kubectl) -> str:
    culvert = ".venv/bin/culvert"
    return "\n".join(
        [
            "\nLook further:",
            f"  export KUBECONFIG={kube.kubeconfig}",
            f"  {culvert} status",
            f"  {culvert} ztunnel-config workloads -n {NAMESPACE}",
            "  .venv/bin/kubectl -n istio-system logs ds/ztunnel -f        # one line for each connection",
            f"  {culvert} lab down --name {LAB}",
        ]
    )


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except subprocess.TimeoutExpired as late:
        sys.exit(f"no answer in time from: {late.cmd}")
