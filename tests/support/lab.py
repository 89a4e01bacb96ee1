"""A lab for tests: real Kubernetes on this machine, and ``kubectl`` on it."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from meshlab import lab, state
from meshlab.progress import Progress

ROOT = Path(__file__).parent.parent.parent
BACKEND = os.environ.get("CULVERT_TEST_BACKEND", "auto")
T = TypeVar("T")


@dataclass(frozen=True)
class Lab:
    """A lab that is up."""

    name: str
    kubeconfig: Path

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout_s: float = 60.0, check: bool = True) -> str:
        """Run kubectl and return its standard output; a failure shows its error output."""
        program = shutil.which("kubectl") or str(Path(sys.executable).with_name("kubectl"))
        done = subprocess.run(
            [program, f"--kubeconfig={self.kubeconfig}", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}\nlook inside: {self.look()}")
        return done.stdout

    def resource(self, *arguments: str) -> Any:
        """Return what ``kubectl get`` says, as a document."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def apply(self, *sources: Path | str, namespace: str = "default") -> None:
        """Apply files and texts of YAML."""
        for source in sources:
            text = source.read_text() if isinstance(source, Path) else source
            self.kubectl("apply", "-n", namespace, "-f", "-", stdin=text)

    def rolled_out(self, *deployments: str, namespace: str = "default", timeout_s: float = 60.0) -> None:
        """Wait until Deployments are rolled out."""
        for name in deployments:
            limit = f"--timeout={timeout_s:.0f}s"
            self.kubectl("rollout", "status", f"deploy/{name}", "-n", namespace, limit, timeout_s=timeout_s + 5)

    def run(self, deployment: str, *command: str, namespace: str = "default", check: bool = True) -> str:
        """Run a command in a pod of a Deployment and return what it says."""
        return self.kubectl("exec", "-n", namespace, f"deploy/{deployment}", "--", *command, check=check)

    def look(self) -> str:
        """Say how to look inside."""
        return f"culvert lab status --name {self.name}; export KUBECONFIG={self.kubeconfig}"


@contextmanager
def running(
    name: str, *, nodes: int = 2, dual_stack: bool = False, extra: Sequence[lab.MakeImage] = ()
) -> Iterator[Lab]:
    """Yield a lab; one that was up before (a developer's) is used and left, one that was not is taken down."""
    change = lab.up(name, nodes=nodes, dual_stack=dual_stack, progress=Progress(), extra=extra)
    try:
        yield Lab(name, state.kubeconfig(name))
    finally:
        if change is lab.Change.MADE and "CULVERT_KEEP_LAB" not in os.environ:
            lab.down(name, progress=Progress())


def install(lab: Lab, *options: str, backend: str = BACKEND) -> None:
    """Install Culvert as users do, or upgrade it; ``backend`` captures."""
    chosen = ("--set", f"nodeAgent.captureBackend={backend}")
    subprocess.run([ROOT / "setup" / "lab-install", lab.name, "--wait", *chosen, *options], check=True)


def eventually(probe: Callable[[], T], what: str, *, within_s: float = 20.0) -> T:
    """Wait until ``probe`` gives something that is true, and return it."""
    end = time.monotonic() + within_s
    while not (found := probe()):
        assert time.monotonic() < end, f"{what}: not within {within_s} s"
        time.sleep(0.1)
    return found
