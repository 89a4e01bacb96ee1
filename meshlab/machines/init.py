"""Process 1 of a machine made of namespaces: ``python -m meshlab.machines.init '<json>'``.

Joins the machine's cgroups and network namespace, takes new namespaces of every other kind, prints the pid of the new
process 1 as this computer sees it, and leaves. Process 1 sets the mounts up, says ``ready``, and collects orphans until
it is killed; with it everything in the machine ends.

Rules for the mounts. Nothing that the machine mounts or writes is seen outside:
1. ``/etc``, ``/opt`` and ``/var`` are overlays of this computer's; what the machine writes there is its own.
2. What holds file systems of containers is a plain folder of the machine: an overlay cannot be on an overlay.
3. ``/`` is shared inside, as systemd leaves it: containerd 1.6 refuses ``HostToContainer`` mounts of ``/var/run/...``
   under a private root.
"""

import json
import os
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from meshkit.linux import cgroups, syscalls
from meshkit.linux.cgroups import Hierarchy
from meshkit.linux.syscalls import Clone, Mount

READY = "ready"
SYSTEM = "system"
"""Cgroup of the machine's own processes in the unified hierarchy, where a group with children must not hold any."""

_OVERLAID = ("etc", "opt", "var")
_PLAIN = ("/var/lib/containerd", "/var/lib/kubelet", "/var/lib/etcd", "/var/lib/cni", "/var/log")
_SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv6/conf/all/forwarding": "1",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
}


@dataclass(frozen=True, slots=True)
class Spec:
    """What process 1 needs to know.

    Attributes:
        hostname: name of the machine.
        subtree: its cgroup, in every hierarchy.
        netns: path of its network namespace.
        home: folder of this computer that keeps its files; not below ``/etc``, ``/opt`` or ``/var``.
    """

    hostname: str
    subtree: str
    netns: str
    home: str

    def to_json(self) -> str:
        """Return the argument that the program takes."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read the program's argument."""
        return cls(**json.loads(text))


def main(argument: str) -> None:
    """Become a machine."""
    spec = Spec.from_json(argument)
    hierarchies = cgroups.hierarchies()
    cgroups.join(spec.subtree, os.getpid())
    descriptor = os.open(spec.netns, os.O_RDONLY | os.O_CLOEXEC)
    syscalls.setns(descriptor, Clone.NEWNET)
    syscalls.unshare(Clone.NEWNS | Clone.NEWUTS | Clone.NEWIPC | Clone.NEWCGROUP | Clone.NEWPID)
    for hierarchy in hierarchies:
        if hierarchy.unified:  # only now, so that the cgroup namespace begins at the machine's own group
            (hierarchy.root / spec.subtree / SYSTEM / "cgroup.procs").write_text("0")
    _become_process_1()
    _mount(spec, hierarchies)
    socket.sethostname(spec.hostname)
    for name, value in _SYSCTLS.items():
        with suppress(FileNotFoundError):  # a kernel without IPv6
            Path("/proc/sys", name).write_text(value)
    _say(READY)
    _collect_orphans()


def _become_process_1() -> None:
    """Return in the new process 1 only, and only when its pid has been printed: the reader takes the lines in order."""
    waits, printed = os.pipe()
    child = os.fork()
    if child:
        _say(str(child))
        os._exit(0)  # closes the pipe
    os.close(printed)
    os.read(waits, 1)
    os.close(waits)


def _mount(spec: Spec, hierarchies: tuple[Hierarchy, ...]) -> None:
    home = Path(spec.home)
    syscalls.mount("none", "/", flags=Mount.REC | Mount.PRIVATE)
    syscalls.mount("proc", "/proc", "proc", Mount.NOSUID | Mount.NODEV | Mount.NOEXEC)
    for name in _OVERLAID:
        upper, work = home / "upper" / name, home / "work" / name
        upper.mkdir(parents=True, exist_ok=True)
        work.mkdir(parents=True, exist_ok=True)
        syscalls.mount("overlay", f"/{name}", "overlay", data=f"lowerdir=/{name},upperdir={upper},workdir={work}")
    for target in _PLAIN:
        source = home / "plain" / target.rsplit("/", 1)[-1]
        source.mkdir(parents=True, exist_ok=True)
        Path(target).mkdir(parents=True, exist_ok=True)
        syscalls.mount(str(source), target, flags=Mount.BIND)
    _mount_sys(hierarchies)
    syscalls.mount("tmpfs", "/run", "tmpfs", Mount.NOSUID | Mount.NODEV, "mode=0755")
    syscalls.mount("tmpfs", "/dev/shm", "tmpfs", Mount.NOSUID | Mount.NODEV, "mode=1777")  # noqa: S108 - the place
    Path("/run/lock").mkdir()
    syscalls.mount("none", "/", flags=Mount.REC | Mount.SHARED)


def _mount_sys(hierarchies: tuple[Hierarchy, ...]) -> None:
    quiet = Mount.NOSUID | Mount.NODEV | Mount.NOEXEC
    syscalls.mount("sysfs", "/sys", "sysfs", quiet)
    syscalls.mount("bpf", "/sys/fs/bpf", "bpf", quiet, "mode=0700")
    top = Path("/sys/fs/cgroup")
    if all(hierarchy.root != top for hierarchy in hierarchies):
        syscalls.mount("tmpfs", top, "tmpfs", quiet, "mode=0755")
    for hierarchy in hierarchies:
        hierarchy.root.mkdir(exist_ok=True)
        kind = "cgroup2" if hierarchy.unified else "cgroup"
        syscalls.mount(kind, hierarchy.root, kind, quiet, hierarchy.options)


def _collect_orphans() -> None:
    awaited = {signal.SIGCHLD, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    while True:
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        if signal.sigwait(awaited) == signal.SIGTERM:
            return


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1])
