"""The server, the waypoint, the gateway and the client of the bench of rollouts, on a lab; tests use them, too."""

import base64
import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from meshlab import images, product
from meshlab.images import Archive, Image
from meshlab.programs import Say
from tests.support import manifests
from tests.support.certificates import Issuer
from tests.support.mesh import Mesh

NS: Final = "rollouts"
EDGE: Final = "edge"
EDGE_HOST: Final = f"{EDGE}-istio.{NS}"
GATEWAY: Final = f"""
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {EDGE}, annotations: {{networking.istio.io/service-type: ClusterIP}}}}
spec:
  gatewayClassName: istio
  listeners:
    - {{name: https, port: 443, protocol: HTTPS, tls: {{certificateRefs: [{{name: {EDGE}}}]}}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: server}}
spec:
  parentRefs: [{{name: {EDGE}}}]
  rules:
    - matches: [{{path: {{value: /traffic.Traffic}}}}]
      backendRefs: [{{name: server, port: 9090}}]
    - backendRefs: [{{name: server, port: 8080}}]
"""
_IMAGE: Final = f"{images.PREFIX}/rollouts:1"
_HERE: Final = Path(__file__).parent
_LIMIT_S: Final = 120.0
_USE_S: Final = 0.5
"""How long a certificate is in use before the next one."""


def image(say: Say) -> Archive:
    """Build the image of server and client, or find it in the cache."""
    return images.build(Image(_IMAGE, _HERE / "Dockerfile", _HERE, base=product.runtime(say)), say)


@dataclass(frozen=True)
class Report:
    """What went through under load, and what failed."""

    requests: int
    streams: int
    sockets: int
    messages: int
    failures: list[str]
    seconds: float

    def __str__(self) -> str:
        shown = "".join(f"\n  {one}" for one in self.failures[:20])
        return (
            f"{self.requests} requests, {self.streams} streams and {self.sockets} WebSockets with {self.messages} "
            f"messages in {self.seconds:.0f} s, {len(self.failures)} failed{shown}"
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
        self._authority = Issuer.root()

    def deploy(self) -> None:
        """Deploy two servers, a client and a waypoint, and wait until they are there."""
        self.mesh.namespace(NS, enrolled=True)
        probe = {"tcpSocket": {"port": 9090}, "periodSeconds": 1}
        self.mesh.lab.apply(
            manifests.service("server", {"http": 8080, "grpc": 9090}),
            manifests.deployment(
                "server",
                {"image": _IMAGE, "args": ["serve"], "readinessProbe": probe},
                replicas=2,
                terminationGracePeriodSeconds=30,  # open streams end
            ),
            manifests.deployment("client", {"image": _IMAGE, "args": ["idle"]}),
            namespace=NS,
        )
        self.mesh.waypoint(NS)
        self.rolled_out("server", "client", "waypoint")

    def publish(self) -> None:
        """Deploy a gateway that ends TLS in front of the server, and wait until it is there."""
        self.certify()
        self.mesh.lab.apply(GATEWAY, namespace=NS)
        self.mesh.lab.kubectl("wait", "-n", NS, "--for=condition=programmed", f"gtw/{EDGE}", "--timeout=60s")
        self.mesh.in_force("httproute", "server", NS)
        self.rolled_out(f"{EDGE}-istio")

    def certify(self) -> None:
        """Give the gateway another certificate of the same authority."""
        name = x509.DNSName(EDGE_HOST)
        leaf, key = self._authority.leaf([name], usages=[ExtendedKeyUsageOID.SERVER_AUTH], life=timedelta(days=1))
        self.mesh.lab.apply(manifests.tls_secret(EDGE, leaf, key), namespace=NS)

    def rolled_out(self, *names: str) -> None:
        """Wait for Deployments."""
        self.mesh.lab.rolled_out(*names, namespace=NS, timeout_s=_LIMIT_S)

    @contextlib.contextmanager
    def load(self, *, gateway: bool = False) -> Iterator[Load]:
        """A client at work, for as long as the context is open: through the waypoint, or through the gateway by TLS."""
        roots = base64.b64encode(self._authority.pem).decode()
        target = [EDGE_HOST, roots] if gateway else ["server"]
        command = self.mesh.command(NS, "client", "python3", "/opt/traffic.py", "load", *target, stdin=True)
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


def _certify(rollouts: Rollouts) -> None:
    """Give another certificate, and let connections be opened with it before the next one."""
    rollouts.certify()
    time.sleep(_USE_S)


CHANGES: Final[dict[str, Callable[[Rollouts], None]]] = {
    "rollout of the waypoint": _restart("waypoint"),
    "rollout of the server": _restart("server"),
    "waypoint to 3 and back to 1": _scale("waypoint"),
    "server to 3 and back to 1": _scale("server"),
}
"""What is done under load through the waypoint, by what it is called."""

AT_GATEWAY: Final[dict[str, Callable[[Rollouts], None]]] = {
    "rollout of the gateway": _restart(f"{EDGE}-istio"),
    "gateway to 3 and back to 1": _scale(f"{EDGE}-istio"),
    "certificate of the gateway": _certify,
}
"""What is done under load through the gateway."""
