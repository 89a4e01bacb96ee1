"""Cgroup hierarchies, v1, unified and hybrid: which there are, subtrees in all of them, and ending what runs inside.

A *subtree* is the same relative path in every hierarchy. Only the unified hierarchy says what belongs to a subtree
when it is killed: every process of a subtree is in all of them.
"""

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from meshkit.linux import mounts, syscalls
from meshkit.linux.syscalls import Clone, Mount

T = TypeVar("T")

_INITIAL = 0xEFFFFFFB  # PROC_CGROUP_INIT_INO
_CPUSET_FILES = ("cpuset.cpus", "cpuset.mems")


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One mounted hierarchy.

    Attributes:
        root: where it is mounted.
        options: mount options that select it again (``cpu,cpuacct``, ``none,name=systemd``); empty for the unified one.
    """

    root: Path
    options: str

    @property
    def unified(self) -> bool:
        """Whether this is the version 2 hierarchy."""
        return not self.options


def hierarchies() -> tuple[Hierarchy, ...]:
    """Return the mounted hierarchies, each once, the unified one last."""
    found: dict[str, Hierarchy] = {}
    for mount in mounts.mounted():
        if mount.kind == "cgroup2":
            found.setdefault("", Hierarchy(mount.target, ""))
        elif mount.kind == "cgroup":
            options = _selecting(mount.super_options)
            found.setdefault(options, Hierarchy(mount.target, options))
    return tuple(sorted(found.values(), key=lambda hierarchy: (hierarchy.unified, hierarchy.options)))


def unified_root() -> Path | None:
    """Return where the unified hierarchy is mounted, if it is."""
    return next((hierarchy.root for hierarchy in hierarchies() if hierarchy.unified), None)


def host_root() -> Path:
    """Return the root of the unified hierarchy as process 1 sees it, whatever is mounted here.

    In a container it is mounted anew where no other process sees it. The path is then of a descriptor that stays open,
    so call it once.

    Raises:
        OSError: the process lacks CAP_SYS_ADMIN, or the kernel has no such hierarchy.
    """

    def mount() -> int:
        syscalls.unshare(Clone.NEWNS)
        syscalls.mount("none", "/", flags=Mount.REC | Mount.PRIVATE)
        syscalls.mount("none", "/sys", "cgroup2")
        return os.open("/sys", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    root = unified_root()
    if _is_initial() and root is not None:
        return root
    return Path(f"/proc/self/fd/{_as_process_1(mount)}")


def host_path(pid: int) -> str:
    """Return the path of a process's cgroup in the unified hierarchy, below ``host_root``.

    Raises:
        OSError: the process has ended, or is in no such hierarchy.
    """
    read = Path(f"/proc/{pid}/cgroup").read_text
    for line in (read() if _is_initial() else _as_process_1(read)).splitlines():
        if line.startswith("0::/"):
            return line.removeprefix("0::/")
    raise OSError(f"process {pid} is in no unified cgroup")


def _is_initial() -> bool:
    """Return whether this process sees the cgroups as the kernel does."""
    return Path("/proc/self/ns/cgroup").stat().st_ino == _INITIAL


def _as_process_1(work: Callable[[], T]) -> T:
    """Run ``work`` on a thread of its own in the cgroup namespace of process 1."""

    def enter() -> T:
        descriptor = os.open("/proc/1/ns/cgroup", os.O_RDONLY | os.O_CLOEXEC)
        try:
            syscalls.setns(descriptor, Clone.NEWCGROUP)
        finally:
            os.close(descriptor)
        return work()

    with ThreadPoolExecutor(1, thread_name_prefix="cgroups") as thread:
        return thread.submit(enter).result()


def create(subtree: str) -> None:
    """Make a subtree in every hierarchy, usable for processes (cpuset copied down, controllers handed down)."""
    for hierarchy in hierarchies():
        folder = hierarchy.root
        for part in Path(subtree).parts:
            parent, folder = folder, folder / part
            if hierarchy.unified:
                _hand_down_controllers(parent)
            folder.mkdir(exist_ok=True)
            if "cpuset" in hierarchy.options.split(","):
                _copy_cpuset(parent, folder)


def join(subtree: str, pid: int) -> None:
    """Move a process into a subtree of every hierarchy."""
    for hierarchy in hierarchies():
        (hierarchy.root / subtree / "cgroup.procs").write_text(str(pid))


def processes(subtree: str) -> frozenset[int]:
    """Return the processes in a subtree, at any depth, of the unified hierarchy."""
    root = unified_root()
    return frozenset(pid for folder in _folders(root / subtree) for pid in _pids(folder)) if root else frozenset()


def kill(subtree: str, *, deadline_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
    """End every process of a subtree, children that are born meanwhile included; returns when all are gone.

    Raises:
        TimeoutError: some are still there after ``deadline_s`` seconds.
    """
    root = unified_root()
    if root is None:
        return
    end = clock() + deadline_s
    switch = root / subtree / "cgroup.kill"
    at_once = switch.exists()
    if at_once:
        switch.write_text("1")
    while left := processes(subtree):
        if clock() > end:
            raise TimeoutError(f"processes {sorted(left)} of cgroup {subtree} do not end")
        if not at_once:  # before Linux 5.14
            _kill_each(left)
        time.sleep(0.01)


def _kill_each(pids: Iterable[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def remove(subtree: str, *, deadline_s: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
    """Remove an empty subtree from every hierarchy; what is not there is no error.

    Raises:
        OSError: a process is still in it after ``deadline_s`` seconds.
    """
    end = clock() + deadline_s
    for hierarchy in hierarchies():
        for folder in _folders(hierarchy.root / subtree):
            while True:
                try:
                    folder.rmdir()
                except FileNotFoundError:
                    break
                except OSError:
                    if clock() > end:
                        raise
                    time.sleep(0.01)
                else:
                    break


def _selecting(super_options: str) -> str:
    """Keep the options that name the hierarchy: controllers, and the name of one without controllers."""
    chosen = [
        option
        for option in super_options.split(",")
        if option not in {"rw", "ro", "xattr", "noprefix", "clone_children"}
    ]
    chosen = [option for option in chosen if not option.startswith("release_agent=")]
    named = [option for option in chosen if option.startswith("name=")]
    return ",".join(["none", *named] if named == chosen else chosen)


def _hand_down_controllers(folder: Path) -> None:
    controllers = folder / "cgroup.controllers"
    if not controllers.exists():
        return
    for controller in controllers.read_text().split():
        with suppress(OSError):  # held by a v1 hierarchy, or not to be handed down from a group with processes
            (folder / "cgroup.subtree_control").write_text(f"+{controller}")


def _copy_cpuset(parent: Path, folder: Path) -> None:
    for name in _CPUSET_FILES:
        for spelled in (name, name.removeprefix("cpuset.")):
            target = folder / spelled
            if target.exists() and not target.read_text().strip():
                target.write_text((parent / spelled).read_text())


def _folders(root: Path) -> Iterator[Path]:
    """Yield a folder's folders and itself, deepest first."""
    for name, _, _ in os.walk(root, topdown=False):
        yield Path(name)


def _pids(folder: Path) -> Iterator[int]:
    with suppress(FileNotFoundError, OSError):
        for line in (folder / "cgroup.procs").read_text().splitlines():
            yield int(line)
