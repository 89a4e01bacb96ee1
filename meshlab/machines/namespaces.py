"""Machines made of namespaces of this computer: no image, no kernel, no boot.

What a lab leaves on this computer has names that follow from the lab's name and slot, so that ``destroy`` can remove
all of it without a record, after a crash half-way too: cgroup subtrees ``culvert-lab/<lab>``, network namespaces
``culvert.<lab>.<machine>``, the bridge ``culvert<slot>`` and the links ``culvert<slot>m<number>``.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from meshkit.linux import cgroups, links, netns
from meshlab import run
from meshlab.errors import ComponentFailed
from meshlab.machines import init
from meshlab.machines.machine import File, Output, Service
from meshlab.plan import LabPlan, MachinePlan

_CGROUP = "culvert-lab"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_BOOT_TIMEOUT_S = 20.0

# Joins the cgroups, then runs the rest in the background: the service's parent is process 1, which reaps it.
_JOIN = 'while [ "$1" != -- ]; do echo 0 > "$1" || exit 125; shift; done; shift; '
_FOREGROUND = _JOIN + 'exec "$@"'
_BACKGROUND = _JOIN + '"$@" >&2 & echo $!'


@dataclass(frozen=True, slots=True)
class NamespacesMachine:
    """A booted machine; see ``machine.Machine``.

    Attributes:
        plan: what it was made from.
        lab: name of its lab.
        home: folder of its files on this computer.
        logs: folder of its services' logs.
        pid: its process 1, as this computer sees it.
    """

    plan: MachinePlan
    lab: str
    home: Path
    logs: Path
    pid: int

    @property
    def name(self) -> str:
        """Host name."""
        return self.plan.name

    def write(self, files: Sequence[File]) -> None:
        """Write files, with the folders above them."""
        for file in files:
            target = self._outside(file.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch(mode=file.mode)
            target.write_bytes(file.content)
            target.chmod(file.mode)

    def provide(self, path: Path) -> None:
        """Do nothing: the machine sees this computer's files."""

    def link(self, folder: str, targets: Sequence[str]) -> None:
        """Put symbolic links to ``targets`` into a folder, under their own names."""
        inside = self._outside(folder)
        inside.mkdir(parents=True, exist_ok=True)
        for target in targets:
            (inside / Path(target).name).symlink_to(target)

    def run(self, argv: Sequence[str], *, timeout_s: float = 60.0) -> Output:
        """Run a program to its end; standard output and error come together."""
        done = subprocess.run(
            self.command(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PATH": _PATH, "HOME": "/root"},
            timeout=timeout_s,
            check=False,
        )
        return Output(done.returncode, done.stdout.decode(errors="replace"))

    def start(self, service: Service) -> None:
        """Start a service; its output goes to ``log(service.name)``."""
        log = self.log(service.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            done = subprocess.run(
                self._in_machine(service.argv, _BACKGROUND),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=output,
                env={"PATH": _PATH, "HOME": "/root", **service.environment},
                start_new_session=True,
                check=True,
            )
        record = self._records() / service.name
        record.parent.mkdir(exist_ok=True)
        draft = self.home / f"{service.name}.draft"
        draft.write_text(json.dumps({"pid": int(done.stdout)}))
        draft.rename(record)  # whole or not there: another thread may list the services

    def running(self) -> Mapping[str, bool]:
        """Say which of the started services are still there."""
        alive = cgroups.processes(subtree(self.lab, self.name))
        records = sorted(self._records().iterdir()) if self._records().is_dir() else []
        return {record.name: json.loads(record.read_text())["pid"] in alive for record in records}

    def log(self, service: str) -> Path:
        """Return the log file of a service, on this computer."""
        return self.logs / f"{self.name}-{service}.log"

    def command(self, argv: Sequence[str]) -> list[str]:
        """Return the command line that runs ``argv`` on the machine from a terminal of this computer."""
        return self._in_machine(argv, _FOREGROUND)

    def _in_machine(self, argv: Sequence[str], script: str) -> list[str]:
        """Enter by cgroup, then by namespace; ``ip netns exec`` would mount ``/sys`` anew and hide the cgroups."""
        files = [str(file) for file in _procs_files(subtree(self.lab, self.name))]
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--"]
        return ["sh", "-c", script, "sh", *files, "--", *enter, *argv]

    def _outside(self, path: str) -> Path:
        """Return where this computer sees a file of the machine."""
        return Path(f"/proc/{self.pid}/root") / path.lstrip("/")

    def _records(self) -> Path:
        return self.home / "services"


def boot(lab: LabPlan, plan: MachinePlan, *, state: Path) -> NamespacesMachine:
    """Start process 1 of a machine whose network is there (see ``connect``).

    Raises:
        ComponentFailed: it does not come up; names its log.
    """
    home, logs = state / "machines" / plan.name, state / "logs"
    home.mkdir(parents=True)
    logs.mkdir(exist_ok=True)
    group = subtree(lab.name, plan.name)
    cgroups.create(group)
    root = cgroups.unified_root()
    if root is not None:
        (root / group / init.SYSTEM).mkdir(exist_ok=True)
    spec = init.Spec(
        hostname=plan.name, subtree=group, netns=str(netns.path(_netns(lab.name, plan.name))), home=str(home)
    )
    log = logs / f"{plan.name}-init.log"
    with log.open("ab") as errors:
        started = subprocess.Popen(
            [sys.executable, "-m", "meshlab.machines.init", spec.to_json()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            cwd="/",
            env={"PATH": _PATH, "HOME": "/root", "PYTHONPATH": ":".join(path for path in sys.path if path)},
        )
    if started.stdout is None:
        raise AssertionError("stdout is a pipe")
    with started.stdout as output:
        pid, ready = output.readline().strip(), output.readline().strip()
    started.wait(_BOOT_TIMEOUT_S)
    if ready.decode() != init.READY:
        raise ComponentFailed(f"machine {plan.name} did not come up, see {log}:\n{run.tail(log)}")
    (home / "pid").write_text(pid.decode())
    return NamespacesMachine(plan, lab.name, home, logs, int(pid))


def find(lab: LabPlan, plan: MachinePlan, *, state: Path) -> NamespacesMachine | None:
    """Return a machine that was booted before, or None if it does not run."""
    home = state / "machines" / plan.name
    try:
        pid = int((home / "pid").read_text())
    except (OSError, ValueError):
        return None
    if pid not in cgroups.processes(subtree(lab.name, plan.name)):
        return None
    return NamespacesMachine(plan, lab.name, home, state / "logs", pid)


def connect(lab: LabPlan) -> None:
    """Make the lab's network: a bridge on this computer, and a namespace for each machine with a link to it."""
    links.add_bridge(lab.bridge)
    for interface in lab.bridge_interfaces:
        links.add_address(lab.bridge, interface)
    for number, machine in enumerate(lab.machines):
        namespace = netns.create(_netns(lab.name, machine.name))
        links.add_veth(f"{lab.bridge}m{number}", master=lab.bridge, peer="eth0", peer_netns=namespace)
        netns.run(namespace, partial(_configure, machine))


def destroy(name: str, bridge: str | None, machines: Sequence[str]) -> None:
    """End and remove everything of a lab, however far it had come. Twice is as good as once."""
    group = f"{_CGROUP}/{name}"
    cgroups.kill(group)
    for link in [link.name for link in links.links() if bridge and link.name.startswith(f"{bridge}m")]:
        links.delete(link)  # explicitly: with the namespace it would go later, when the kernel finds time
    if bridge:
        links.delete(bridge)
    for machine in machines:
        netns.delete(_netns(name, machine))
    cgroups.remove(group)
    if not _other_labs():
        cgroups.remove(_CGROUP)


def subtree(lab: str, machine: str) -> str:
    """Return the cgroup of a machine."""
    return f"{_CGROUP}/{lab}/{machine}"


def _other_labs() -> bool:
    root = cgroups.unified_root()
    home = root / _CGROUP if root else None
    return bool(home and home.is_dir() and any(entry.is_dir() for entry in home.iterdir()))


def _configure(machine: MachinePlan) -> None:
    links.set_up("lo")
    links.set_up("eth0")
    for interface in machine.interfaces:
        links.add_address("eth0", interface)
    for destination, gateway in machine.routes:
        links.add_route(destination, gateway)


def _netns(lab: str, machine: str) -> str:
    return f"culvert.{lab}.{machine}"


def _procs_files(group: str) -> list[Path]:
    return [
        hierarchy.root / group / (init.SYSTEM if hierarchy.unified else "") / "cgroup.procs"
        for hierarchy in cgroups.hierarchies()
    ]
