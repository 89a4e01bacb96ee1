"""Culvert installed in a lab, and pods to test it with."""

import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshapi import names
from meshkit.linux import netns
from meshlab import state
from meshlab.plan import LabPlan
from tests.support import manifests
from tests.support.lab import ROOT, Lab, eventually

PROGRAMS = ROOT / "tests" / "cluster" / "programs"
SYSTEM = names.DEFAULT_NAMESPACE


@dataclass
class LoadReport:
    """What a client's connections suffered; see ``tests/cluster/programs/load.py``."""

    new_ok: int
    kept_ok: int
    failures: list[dict[str, Any]]
    hanging: int
    peers: list[str]
    slowest_s: float
    slow: list[list[float]]
    longest_gap_s: float

    def __str__(self) -> str:
        counts: dict[str, int] = {}
        for failure in self.failures:
            key = f"{failure['kind']}/{failure['stage']}: {failure['error']}"
            counts[key] = counts.get(key, 0) + 1
        return (
            f"{self.new_ok} new connections, {self.kept_ok} exchanges on open ones, {len(self.failures)} failures "
            f"{counts}, {self.hanging} hanging, longest pause {self.longest_gap_s:.2f} s, slowest exchange "
            f"{self.slowest_s:.2f} s"
        )


class Load:
    """A client at work in a pod."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"

    def report(self, within_s: float = 60) -> LoadReport:
        """Wait for the end."""
        output, _ = self._process.communicate(timeout=within_s)
        return LoadReport(**json.loads(output))


class Mesh:
    """The mesh of a lab."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def namespace(self, name: str, *, enrolled: bool = False) -> None:
        """Make a namespace anew."""
        self.lab.kubectl("delete", "namespace", name, "--ignore-not-found", "--wait", timeout_s=120)
        self.lab.kubectl("create", "namespace", name)
        if enrolled:
            self.enrol(name)

    def enrol(self, namespace: str) -> None:
        """Label a namespace."""
        label = f"{names.DATAPLANE_MODE_LABEL}={names.DATAPLANE_MODE_AMBIENT}"
        self.lab.kubectl("label", "namespace", namespace, label, "--overwrite")

    def unenrol(self, namespace: str) -> None:
        """Remove the label."""
        self.lab.kubectl("label", "namespace", namespace, f"{names.DATAPLANE_MODE_LABEL}-")

    def echo(self, namespace: str, name: str, node: str, *, probe: bool = True) -> None:
        """Start an echo server (port 9000) with a Service and a service account of its name."""
        self._deploy(namespace, name, node, ["serve", "9000"], probe=probe)
        self.lab.apply(manifests.service(name, {"tcp": 9000}), namespace=namespace)

    def client(self, namespace: str, name: str, node: str) -> None:
        """Start a pod to send from."""
        self._deploy(namespace, name, node, None, probe=False)

    def load(self, namespace: str, client: str, host: str, seconds: float, port: int = 9000) -> Load:
        """Set a client to work."""
        command = self.command(namespace, client, "python3", "/load/load.py", "run", host, str(port), str(seconds))
        return Load(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))

    def request(self, namespace: str, client: str, host: str, port: int = 9000, timeout_s: float = 3) -> str:
        """Open one connection; returns the answer, or the error's name in angle brackets."""
        code = (
            "import socket,sys\n"
            "try:\n"
            f"    c = socket.create_connection(({host!r}, {port}), timeout={timeout_s})\n"
            "    c.sendall(b'hello\\n'); print(c.makefile().readline().strip() or '<ended>')\n"
            "except OSError as error: print(f'<{type(error).__name__}>')\n"
        )
        done = subprocess.run(
            self.command(namespace, client, "python3", "-c", code),
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout.strip()

    def pod(self, namespace: str, app: str) -> dict[str, Any]:
        """The one running pod of an application."""
        items = self.lab.resource("pods", "-n", namespace, "-l", f"app={app}")["items"]
        alive = [item for item in items if not item["metadata"].get("deletionTimestamp")]
        assert len(alive) == 1, [item["metadata"]["name"] for item in alive]
        return alive[0]

    def captured(self, namespace: str, app: str) -> bool:
        """Whether a pod is announced as captured."""
        annotations = self.pod(namespace, app)["metadata"].get("annotations") or {}
        return annotations.get(names.REDIRECTION_ANNOTATION) == names.REDIRECTION_ENABLED

    def ztunnel_log(self, since_s: int = 600) -> str:
        """The logs of all ztunnels."""
        selector = f"-l=app={names.ZTUNNEL_SERVICE_ACCOUNT}"
        return self.lab.kubectl("logs", "-n", SYSTEM, selector, "--tail=-1", f"--since={since_s}s")

    def logged(self, *words: str, within_s: float = 10) -> str:
        """Wait for an access-log line with all these words."""
        found: list[str] = []

        def look() -> bool:
            lines = self.ztunnel_log().splitlines()
            found[:] = [line for line in lines if "\taccess\t" in line and all(word in line for word in words)]
            return bool(found)

        eventually(look, f"an access-log line with {words}", within_s=within_s)
        return found[-1]

    def left_outside(self, namespace: str, app: str) -> int:
        """How many connections of a pod stayed uncaptured when it was captured, as the node agent has logged."""
        agents = f"-l=app={names.NODE_AGENT_DAEMON_SET}"
        name = re.escape(f"{namespace}/{self.pod(namespace, app)['metadata']['name']}")
        lines = self.lab.kubectl("logs", "-n", SYSTEM, agents, "--tail=-1").splitlines()
        line = next(line for line in reversed(lines) if re.search(rf'pod captured.*pod="?{name}"?', line))
        found = re.search(r"connections_outside=(\d+)", line)
        assert found is not None, line
        return int(found.group(1))

    def repairs(self, node: str) -> float:
        """How often the node's agent has repaired rules of pods."""
        plan = next(one for one in self._plan().nodes if one.name == node)
        url = f"http://{plan.address}:{names.NODE_AGENT_METRICS_PORT}/metrics"
        done = subprocess.run(["curl", "-sS", "-m", "5", url], capture_output=True, text=True, check=True)
        found = re.search(r'^nodeagent_capture_repairs_total\{scope="pod"\} (\S+)$', done.stdout, re.MULTILINE)
        assert found is not None, done.stdout
        return float(found.group(1))

    def node_link(self, node: str) -> str:
        """This computer's end of a node's cable."""
        plan = self._plan()
        return f"{plan.bridge}m{[machine.name for machine in plan.machines].index(node)}"

    def _plan(self) -> LabPlan:
        record = state.load(self.lab.name)
        assert record is not None
        return record.plan

    @contextmanager
    def outside_server(self, port: int = 9000) -> Iterator[str]:
        """Serve an echo outside of the mesh; yields its address."""
        with self.outside([sys.executable, str(PROGRAMS / "load.py"), "serve", str(port)], port) as address:
            yield address

    @contextmanager
    def outside(self, program: list[str], port: int, *, within_s: float = 20) -> Iterator[str]:
        """Run a server on the control plane's machine, which is no pod and no service; yields its address."""
        plan = self._plan()
        space = netns.path(f"culvert.{self.lab.name}.{plan.control.name}")
        address = str(plan.control.address)
        process = subprocess.Popen(["nsenter", f"--net={space}", *program])
        try:
            eventually(lambda: _accepts(address, port), "the outside server listens", within_s=within_s)
            yield address
        finally:
            process.terminate()
            process.wait()

    def ready(self, within_s: float = 60) -> None:
        """Wait until every part is ready."""
        limit = f"--timeout={within_s:.0f}s"
        for workload in ("deploy/istiod", "ds/ztunnel", f"ds/{names.NODE_AGENT_DAEMON_SET}"):
            self.lab.kubectl("rollout", "status", "-n", SYSTEM, workload, limit, timeout_s=within_s + 5)

    def culvert(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command line against this lab; the caller checks the exit status."""
        command = [sys.executable, "-m", "meshctl", *arguments, f"--kubeconfig={self.lab.kubeconfig}"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)

    def waypoint(self, namespace: str) -> None:
        """Make a waypoint for all services of a namespace, and wait for it."""
        done = self.culvert("waypoint", "apply", "-n", namespace, "--enroll-namespace", "--wait", "--timeout", "90")
        assert done.returncode == 0, done.stderr

    def in_force(self, kind: str, name: str, namespace: str) -> None:
        """Wait until all proxies have an object as it is now."""
        done = self.culvert("wait", kind, f"{name}.{namespace}", "--timeout", "60s")
        assert done.returncode == 0, done.stderr

    @property
    def configuration(self) -> str:
        """The mesh configuration, as text."""
        held = self.lab.resource("configmap", names.MESH_CONFIGMAP, "-n", SYSTEM)
        return str(held["data"][names.MESH_CONFIG_KEY])

    def configure(self, text: str) -> None:
        """Replace the mesh configuration."""
        patch = json.dumps({"data": {names.MESH_CONFIG_KEY: text}})
        self.lab.kubectl("patch", "configmap", names.MESH_CONFIGMAP, "-n", SYSTEM, "-p", patch)

    def command(self, namespace: str, deployment: str, *command: str, stdin: bool = False) -> list[str]:
        """Return the command line that runs ``command`` in a pod."""
        program = shutil.which("kubectl") or str(Path(sys.executable).with_name("kubectl"))
        return [
            program,
            f"--kubeconfig={self.lab.kubeconfig}",
            "exec",
            *(["-i"] if stdin else []),
            "-n",
            namespace,
            f"deploy/{deployment}",
            "--",
            *command,
        ]

    def _deploy(self, namespace: str, name: str, node: str, arguments: list[str] | None, *, probe: bool) -> None:
        program = manifests.config_map("load", {"load.py": (PROGRAMS / "load.py").read_text()})
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}
        command = ["sleep", "infinity"] if arguments is None else ["python3", "/load/load.py", *arguments]
        container: dict[str, Any] = {
            "name": "main", "image": "localhost/culvert/samples:1", "command": command,
            "volumeMounts": [{"name": "load", "mountPath": "/load"}],
        }  # fmt: skip
        if probe:
            check = {"tcpSocket": {"port": 9000}, "periodSeconds": 1}
            container |= {"readinessProbe": check, "livenessProbe": check}
        pod = {
            "serviceAccountName": name, "nodeName": node, "terminationGracePeriodSeconds": 0,
            "volumes": [{"name": "load", "configMap": {"name": "load"}}],
        }  # fmt: skip
        self.lab.apply(program, json.dumps(account), manifests.deployment(name, container, **pod), namespace=namespace)
        self.lab.rolled_out(name, namespace=namespace)


def _accepts(host: str, port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex((host, port)) == 0
