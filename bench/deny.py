"""``python -m bench.deny LAB``: from the return of ``kubectl apply`` of a DENY to its effect, on a lab with Culvert.

Two figures, medians: until the first new connection is refused, and until the last of the open connections that the
policy forbids is closed. The client looks every two milliseconds.
"""

import argparse
import json
import statistics
import subprocess
import sys
import textwrap
import time

from meshlab import state
from tests.support.lab import Lab, eventually
from tests.support.mesh import Mesh

SPACE = "bench-deny"
OPEN = 5
_POLICY = {
    "apiVersion": "security.istio.io/v1",
    "kind": "AuthorizationPolicy",
    "metadata": {"name": "deny", "namespace": SPACE},
    "spec": {"selector": {"matchLabels": {"app": "server"}}, "action": "DENY", "rules": [{}]},
}
_WATCHER = textwrap.dedent(
    """
    import select, socket, sys, time
    def connect():
        s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=2)
        s.sendall(b"x\\n"); assert s.recv(64); return s
    kept = [connect() for _ in range(int(sys.argv[3]))]
    poll = select.poll()
    for s in kept: poll.register(s, select.POLLIN | select.POLLHUP)
    left = {s.fileno() for s in kept}
    print("ready", flush=True)
    refused = None
    while refused is None or left:
        for number, _ in poll.poll(2):
            left.discard(number); poll.unregister(number); closed = time.time()
        if refused is None:
            try: connect().close()
            except (OSError, AssertionError): refused = time.time()
    print(refused, closed, flush=True)
    """
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.deny", description=__doc__.splitlines()[0])
    parser.add_argument("lab", help="name of a lab with Culvert installed")
    parser.add_argument("--rounds", type=int, default=10)
    chosen = parser.parse_args()
    mesh = Mesh(Lab(chosen.lab, state.kubeconfig(chosen.lab)))
    mesh.namespace(SPACE, enrolled=True)
    mesh.echo(SPACE, "server", "node1", probe=False)
    mesh.client(SPACE, "client", "node2")
    try:
        eventually(lambda: mesh.request(SPACE, "client", "server").endswith("hello"), "the server is reached")
        refused, closed = zip(*(one(mesh) for _ in range(chosen.rounds)), strict=True)
        print(f"to the first refusal: {statistics.median(refused) * 1000:.0f} ms")
        print(f"to the last open connection closed: {statistics.median(closed) * 1000:.0f} ms")
    finally:
        mesh.lab.kubectl("delete", "namespace", SPACE, "--wait=false")


def one(mesh: Mesh) -> tuple[float, float]:
    """Return both figures in seconds."""
    command = mesh.command(SPACE, "client", "python3", "-c", _WATCHER, "server", "9000", str(OPEN))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdout is not None
        if watcher.stdout.readline() != "ready\n":
            sys.exit("bench: the client cannot reach the server")
        mesh.lab.kubectl("apply", "-f", "-", stdin=json.dumps(_POLICY))
        applied = time.time()
        refused, closed = map(float, watcher.stdout.readline().split())
    mesh.lab.kubectl("delete", "-n", SPACE, "authorizationpolicy.security.istio.io/deny")
    eventually(lambda: mesh.request(SPACE, "client", "server").endswith("hello"), "the server is reached again")
    return refused - applied, closed - applied


if __name__ == "__main__":
    main()
