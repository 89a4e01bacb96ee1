"""The server, the waypoint and the client of the bench of rollouts, on a cluster; tests use them, too."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from meshapi import names
from meshlab import images, product
from meshlab.images import Archive, Image
from meshlab.programs import Say

NS: Final = "rollouts"
_IMAGE: Final = f"{images.PREFIX}/rollouts:1"
_HERE: Final = Path(__file__).parent
_ROOT: Final = _HERE.parent.parent
_LIMIT_S: Final = 120


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


class Cluster:
    """What the bench runs on a cluster."""

    def __init__(self, kubeconfig: Path) -> None:
        self._kubeconfig = kubeconfig

    def kubectl(self, *arguments: str, given: Any = None) -> None:
        """Run kubectl; ``given`` is its input, as JSON."""
        text = None if given is None else json.dumps(given)
        command = [*self._kubectl(), *arguments]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=_LIMIT_S + 5)
        assert done.returncode == 0, f"{' '.join(arguments)}: {done.stderr}"

    def install(self, lab: str) -> None:
        """Install Culvert on a lab and deploy everything."""
        subprocess.run([_ROOT / "setup" / "lab-install", lab, "--wait"], check=True)
        self.deploy()

    def deploy(self) -> None:
        """Deploy server, client and waypoint, and wait until they are there."""
        self.kubectl("create", "namespace", NS)
        self.kubectl("label", "namespace", NS, f"{names.DATAPLANE_MODE_LABEL}={names.DATAPLANE_MODE_AMBIENT}")
        for item in (_service(), _deployment("server", ["serve"], replicas=2), _deployment("client", ["idle"])):
            self.kubectl("apply", "-n", NS, "-f", "-", given=item)
        apply = ["waypoint", "apply", "-n", NS, "--enroll-namespace", "--wait", "--timeout", "90"]
        command = [sys.executable, "-m", "meshctl", *apply, f"--kubeconfig={self._kubeconfig}"]
        subprocess.run(command, cwd=_ROOT, check=True)
        for name in ("server", "client", "waypoint"):
            self.rolled_out(name)

    def rolled_out(self, name: str) -> None:
        """Wait for a Deployment."""
        self.kubectl("rollout", "status", "-n", NS, f"deploy/{name}", f"--timeout={_LIMIT_S}s")

    def scale(self, name: str, replicas: int) -> None:
        """Scale a Deployment and wait for it."""
        self.kubectl("scale", "-n", NS, f"deploy/{name}", f"--replicas={replicas}")
        self.rolled_out(name)

    @contextlib.contextmanager
    def load(self) -> Iterator[Load]:
        """A client at work, for as long as the context is open."""
        command = [
            *self._kubectl(),
            "exec",
            "-i",
            "-n",
            NS,
            "deploy/client",
            "--",
            "python3",
            "/opt/traffic.py",
            "load",
        ]
        process = subprocess.Popen(
            [*command, "server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        running = Load(process)
        try:
            yield running
        finally:
            running.end()

    def _kubectl(self) -> list[str]:
        return [str(Path(sys.executable).with_name("kubectl")), f"--kubeconfig={self._kubeconfig}"]


def _restart(name: str) -> Callable[[Cluster], None]:
    def restart(cluster: Cluster) -> None:
        cluster.kubectl("rollout", "restart", "-n", NS, f"deploy/{name}")
        cluster.rolled_out(name)

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


def _service() -> dict[str, Any]:
    ports = [{"name": "http", "port": 8080}, {"name": "grpc", "port": 9090}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "server"},
        "spec": {"selector": {"app": "server"}, "ports": ports},
    }


def _deployment(name: str, arguments: list[str], *, replicas: int = 1) -> dict[str, Any]:
    container: dict[str, Any] = {"name": name, "image": _IMAGE, "imagePullPolicy": "IfNotPresent", "args": arguments}
    if name == "server":
        container["readinessProbe"] = {"tcpSocket": {"port": 9090}, "periodSeconds": 1}
    template = {
        "metadata": {"labels": {"app": name}},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 30},
    }
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template}
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {**spec, "strategy": strategy},
    }
