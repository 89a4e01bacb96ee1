"""kubectl for benches on a lab."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from meshapi import names

LIMIT_S: Final = 120
_ROOT: Final = Path(__file__).parent.parent


class Cluster:
    """A lab's cluster.

    Args:
        kubeconfig: of its administrator.
    """

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        program = str(Path(sys.executable).with_name("kubectl"))
        self.program = (program, f"--kubeconfig={kubeconfig}")

    def kubectl(self, *arguments: str, given: Any = None) -> str:
        """Run kubectl and return its output; ``given`` is its input, as JSON."""
        text = None if given is None else json.dumps(given)
        command = [*self.program, *arguments]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=LIMIT_S + 5)
        assert done.returncode == 0, f"{' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def install(self, lab: str) -> None:
        """Install Culvert on the lab."""
        subprocess.run([_ROOT / "setup" / "lab-install", lab, "--wait"], check=True)

    def namespace(self, name: str, *, enrolled: bool = True) -> None:
        """Make a namespace."""
        self.kubectl("create", "namespace", name)
        if enrolled:
            label = f"{names.DATAPLANE_MODE_LABEL}={names.DATAPLANE_MODE_AMBIENT}"
            self.kubectl("label", "namespace", name, label)

    def apply(self, namespace: str, *items: dict[str, Any]) -> None:
        """Apply objects."""
        for item in items:
            self.kubectl("apply", "-n", namespace, "-f", "-", given=item)

    def waypoint(self, namespace: str) -> None:
        """Make a waypoint for all services of a namespace, and wait for it."""
        self._culvert("waypoint", "apply", "-n", namespace, "--enroll-namespace", "--wait", "--timeout", "90")

    def in_force(self, kind: str, name: str, namespace: str) -> None:
        """Wait until all proxies have an object."""
        self._culvert("wait", kind, name, "-n", namespace, "--timeout", "60s")

    def rolled_out(self, namespace: str, *deployments: str) -> None:
        """Wait for Deployments."""
        for name in deployments:
            self.kubectl("rollout", "status", "-n", namespace, f"deploy/{name}", f"--timeout={LIMIT_S}s")

    def _culvert(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "meshctl", *arguments, f"--kubeconfig={self.kubeconfig}"]
        subprocess.run(command, cwd=_ROOT, check=True)


def service(name: str, ports: dict[str, int]) -> dict[str, Any]:
    """Return a Service for the pods with the label ``app`` of its name."""
    listed = [{"name": port, "port": number} for port, number in ports.items()]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": listed},
    }


def deployment(name: str, container: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return a Deployment of one container; ``more`` is of its pods."""
    labels = {"app": name}
    whole = {"name": name, "imagePullPolicy": "IfNotPresent", **container}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [whole], **more}}
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": labels}, "template": template, "strategy": strategy},
    }
