"""Where a node agent puts its hooks: at which cgroups, and in which folder they are kept."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from meshkit.linux import cgroups

_PODS: Final = ("kubepods", "kubepods.slice")
"""Cgroup of all pods, by the kubelet's drivers."""


@dataclass(frozen=True, slots=True)
class Places:
    """Of one agent.

    Attributes:
        pins: folder in the host's BPF file system; each agent of a machine has one of its own.
        root: of the unified cgroup hierarchy as the host has it.
    """

    pins: Path
    root: Path

    @property
    def pods(self) -> Path:
        """The cgroup of the node's pods: the kubelet's, else the root."""
        return next((self.root / name for name in _PODS if (self.root / name).is_dir()), self.root)

    def of_process(self, pid: int) -> Path:
        """Return the cgroup of a process.

        Raises:
            OSError: it has ended, or its cgroup has.
        """
        folder = self.root / cgroups.host_path(pid)
        if not folder.is_dir():
            raise OSError(f"process {pid} has no cgroup {folder}")
        return folder


def find(pins: Path) -> Places:
    """Return the host's places.

    Raises:
        OSError: the host has no unified cgroup hierarchy, or the agent may not enter it.
    """
    return Places(pins, cgroups.host_root())
