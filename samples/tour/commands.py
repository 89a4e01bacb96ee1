"""Running the commands that a user would type."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_BIN = Path(sys.executable).parent
_TIMEOUT_S = 180.0


class Failed(Exception):
    """A command failed; the text has its last words."""


def run(argv: list[str], stdin: str | None = None) -> str:
    """Run a program; its messages go to the terminal, its output is returned."""
    done = subprocess.run(argv, input=stdin, stdout=subprocess.PIPE, text=True, timeout=_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise Failed(f"{' '.join(argv[:6])} ... ended with status {done.returncode}")
    return done.stdout


def culvert(*arguments: str) -> str:
    """Run the command line of this clone."""
    return run([sys.executable, "-m", "meshctl", *arguments])


class Kubectl:
    """kubectl on a lab."""

    def __init__(self, lab: str) -> None:
        self.kubeconfig = culvert("lab", "kubeconfig", "--name", lab).strip()

    def run(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl."""
        return run([str(_BIN / "kubectl"), f"--kubeconfig={self.kubeconfig}", *arguments], stdin)

    def document(self, *arguments: str) -> Any:
        """Return what ``kubectl get`` says, parsed."""
        return json.loads(self.run("get", *arguments, "-o", "json"))

    def namespace(self, name: str) -> None:
        """Make a namespace if it is not there, outside the mesh."""
        text = json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        self.run("apply", "-f", "-", stdin=text)
        self.run("label", "namespace", name, "istio.io/dataplane-mode-")

    def label(self, namespace: str, label: str) -> None:
        """Label a namespace."""
        self.run("label", "namespace", namespace, label, "--overwrite")

    def apply(self, *arguments: Path | str) -> None:
        """Apply files in a namespace, which is the last argument."""
        *files, namespace = arguments
        self.run("apply", "-n", str(namespace), *[word for file in files for word in ("-f", str(file))])

    def rolled_out(self, namespace: str) -> None:
        """Wait until every Deployment is rolled out."""
        self.run("wait", "-n", namespace, "--for=condition=Available", "deploy", "--all", "--timeout=120s")

    def pods(self, namespace: str) -> dict[str, tuple[str, str]]:
        """Return name and node of each pod by its address."""
        items = self.document("pods", "-n", namespace)["items"]
        return {
            item["status"]["podIP"]: (item["metadata"]["name"], item["spec"]["nodeName"])
            for item in items
            if item["status"].get("podIP")
        }

    def nodes_of_workloads(self, namespace: str) -> dict[str, str]:
        """Return the nodes of each workload's pods (a Deployment's name is its pods' without the two random parts)."""
        nodes: dict[str, set[str]] = {}
        for name, node in self.pods(namespace).values():
            nodes.setdefault(name.rsplit("-", 2)[0], set()).add(node)
        return {workload: ", ".join(sorted(found)) for workload, found in nodes.items()}

    def captured(self, namespace: str, count: int, within_s: float = 30.0) -> None:
        """Wait until ``count`` pods are announced as captured."""
        end = time.monotonic() + within_s
        while True:
            items = self.document("pods", "-n", namespace)["items"]
            annotations = [item["metadata"].get("annotations", {}) for item in items]
            if sum(one.get("ambient.istio.io/redirection") == "enabled" for one in annotations) >= count:
                return
            if time.monotonic() > end:
                raise Failed(f"not all pods of {namespace} are captured after {within_s:.0f} s; see: culvert status")
            time.sleep(0.1)
