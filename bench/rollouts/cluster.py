"""The server, the waypoint and the client of the bench of rollouts, on a cluster; tests use them, too."""

import contextlib
import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import kubernetes
from bench.kubernetes import LIMIT_S
from meshlab import images, product
from meshlab.images import Archive, Image
from meshlab.programs import Say

NS: Final = "rollouts"
_IMAGE: Final = f"{images.PREFIX}/rollouts:1"
_HERE: Final = Path(__file__).parent


def image(say: Say) -> Archive:
    """Build the image of server and client, or find it in the cache."""
    return images.build(Image(_IMAGE, _HERE / "Dockerfile", _HERE, base=product.runtime(say)), say)


@dataclass(frozen=True)
class Report:
    """What went through under load, and what failed."""

    requests: int
    streams: int
    messages: int
    failures: list[str]
    seconds: float

    def __str__(self) -> str:
        shown = "".join(f"\n  {one}" for one in self.failures[:20])
        return (
            f"{self.requests} requests, {self.streams} streams with {self.messages} messages in {self.seconds:.0f} s, "
            f"{len(self.failures)} failed{shown}"
        )


class Load:
    """A client at work; it ends with its standard input."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._found: Report | None = None

    def end(self) -> None:
        output, errors = self._process.communicate(timeout=LIMIT_S)
        assert self._process.returncode == 0, errors
        self._found = Report(**json.loads(output))

    def report(self) -> Report:
        """What the client has counted, after its end."""
        assert self._found is not None
        return self._found


class Cluster(kubernetes.Cluster):
    """What the bench runs on a cluster."""

    def deploy(self) -> None:
        """Deploy server, client and waypoint, and wait until they are there."""
        self.namespace(NS)
        probe = {"tcpSocket": {"port": 9090}, "periodSeconds": 1}
        self.apply(
            NS,
            kubernetes.service("server", {"http": 8080, "grpc": 9090}),
            kubernetes.deployment("server", {"image": _IMAGE, "args": ["serve"], "readinessProbe": probe}),
            kubernetes.deployment("client", {"image": _IMAGE, "args": ["idle"]}),
        )
        self.waypoint(NS)
        self.rolled_out(NS, "server", "client", "waypoint")

    def scale(self, name: str, replicas: int) -> None:
        """Scale a Deployment and wait for it."""
        self.kubectl("scale", "-n", NS, f"deploy/{name}", f"--replicas={replicas}")
        self.rolled_out(NS, name)

    @contextlib.contextmanager
    def load(self) -> Iterator[Load]:
        """A client at work, for as long as the context is open."""
        client = ["python3", "/opt/traffic.py", "load", "server"]
        command = [*self.program, "exec", "-i", "-n", NS, "deploy/client", "--", *client]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        running = Load(process)
        try:
            yield running
        finally:
            running.end()


def _restart(name: str) -> Callable[[Cluster], None]:
    def restart(cluster: Cluster) -> None:
        cluster.kubectl("rollout", "restart", "-n", NS, f"deploy/{name}")
        cluster.rolled_out(NS, name)

    return restart


def _scale(name: str) -> Callable[[Cluster], None]:
    def scale(cluster: Cluster) -> None:
        for replicas in (3, 1):
            cluster.scale(name, replicas)

    return scale


CHANGES: Final[dict[str, Callable[[Cluster], None]]] = {
    "rollout of the waypoint": _restart("waypoint"),
    "rollout of the server": _restart("server"),
    "waypoint to 3 and back to 1": _scale("waypoint"),
    "server to 3 and back to 1": _scale("server"),
}
"""What is done under load, by what it is called."""
