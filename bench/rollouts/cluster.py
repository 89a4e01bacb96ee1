"""The server, the waypoint and the client of the bench of rollouts, on a lab; a test uses them, too."""

import contextlib
import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from meshlab import images, product
from meshlab.images import Archive, Image
from meshlab.programs import Say
from tests.support import manifests
from tests.support.mesh import Mesh

NS: Final = "rollouts"
_IMAGE: Final = f"{images.PREFIX}/rollouts:1"
_HERE: Final = Path(__file__).parent
_LIMIT_S: Final = 120.0


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
        output, errors = self._process.communicate(timeout=_LIMIT_S)
        assert self._process.returncode == 0, errors
        self._found = Report(**json.loads(output))

    def report(self) -> Report:
        """What the client has counted, after its end."""
        assert self._found is not None
        return self._found


class Rollouts:
    """What the bench runs on the mesh of a lab."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh

    def deploy(self) -> None:
        """Deploy two servers, a client and a waypoint, and wait until they are there."""
        self.mesh.namespace(NS, enrolled=True)
        probe = {"tcpSocket": {"port": 9090}, "periodSeconds": 1}
        self.mesh.lab.apply(
            manifests.service("server", {"http": 8080, "grpc": 9090}),
            manifests.deployment("server", {"image": _IMAGE, "args": ["serve"], "readinessProbe": probe}, replicas=2),
            manifests.deployment("client", {"image": _IMAGE, "args": ["idle"]}),
            namespace=NS,
        )
        self.mesh.waypoint(NS)
        self.rolled_out("server", "client", "waypoint")

    def rolled_out(self, *names: str) -> None:
        """Wait for Deployments."""
        self.mesh.lab.rolled_out(*names, namespace=NS, timeout_s=_LIMIT_S)

    @contextlib.contextmanager
    def load(self) -> Iterator[Load]:
        """A client at work, for as long as the context is open."""
        command = self.mesh.command(NS, "client", "python3", "/opt/traffic.py", "load", "server", stdin=True)
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        running = Load(process)
        try:
            yield running
        finally:
            running.end()


def _restart(name: str) -> Callable[[Rollouts], None]:
    def restart(rollouts: Rollouts) -> None:
        rollouts.mesh.lab.kubectl("rollout", "restart", "-n", NS, f"deploy/{name}")
        rollouts.rolled_out(name)

    return restart


def _scale(name: str) -> Callable[[Rollouts], None]:
    def scale(rollouts: Rollouts) -> None:
        for replicas in (3, 1):
            rollouts.mesh.lab.kubectl("scale", "-n", NS, f"deploy/{name}", f"--replicas={replicas}")
            rollouts.rolled_out(name)

    return scale


CHANGES: Final[dict[str, Callable[[Rollouts], None]]] = {
    "rollout of the waypoint": _restart("waypoint"),
    "rollout of the server": _restart("server"),
    "waypoint to 3 and back to 1": _scale("waypoint"),
    "server to 3 and back to 1": _scale("server"),
}
"""What is done under load, by what it is called."""
