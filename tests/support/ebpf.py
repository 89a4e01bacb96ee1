"""Capture by BPF for tests: a BPF file system of this process, and a folder in it for each backend.

The hooks are at the root of the unified hierarchy, where the tests' own sockets are; so is the tunnel's.
"""

import atexit
import os
import time
import uuid
from contextlib import suppress
from functools import cache
from pathlib import Path

from meshengine.bpf import programs_at
from meshkit.linux import cgroups, syscalls
from nodeagent.capture.ebpf.node import EbpfNode
from nodeagent.capture.egress_filter import EgressFilter
from tests.support.waiting import scaled

FILE_SYSTEM = Path(f"/run/culvert-test-bpf-{os.getpid()}")

_nodes: list[EbpfNode] = []


@cache
def file_system() -> Path:
    """Mount a BPF file system until this process ends."""
    FILE_SYSTEM.mkdir(mode=0o700)
    syscalls.mount("bpf", FILE_SYSTEM, "bpf")
    atexit.register(_unmount)
    return FILE_SYSTEM


def root() -> Path:
    found = cgroups.unified_root()
    assert found is not None
    return found


def node(pins: Path | None = None, *, direct_limit: int = 0) -> EbpfNode:
    """Make a node whose hooks are attached, until ``uninstall_all``."""
    made = EbpfNode(pins or file_system() / uuid.uuid4().hex[:8], root(), direct_limit=direct_limit)
    made.attach()
    made.attach_tunnel(root())
    _nodes.append(made)
    return made


def egress_filter(pins: Path | None = None, host: Path | None = None) -> EgressFilter:
    """Make an egress filter that takes this process's own packets with the mark for the tunnel's."""
    made = EgressFilter(pins or file_system() / f"{uuid.uuid4().hex[:8]}-egress", host)
    made.add_tunnel(root())
    return made


def uninstall_all() -> bool:
    """Detach the hooks of all nodes that this process has made, and return whether there were any."""
    found = bool(_nodes)
    while _nodes:
        with suppress(ValueError):  # the test has done so
            _nodes.pop().uninstall()
    return found


def wait_detached(within_s: float = 20.0) -> None:
    """Wait until the kernel has detached what was removed, which it does a little later.

    Raises:
        AssertionError: programs are left, and named.
    """
    end = time.monotonic() + scaled(within_s)
    while left := programs_at(root()):
        assert time.monotonic() < end, f"after {scaled(within_s)} s there are still {left}"
        time.sleep(0.005)


def _unmount() -> None:
    syscalls.unmount(FILE_SYSTEM)
    FILE_SYSTEM.rmdir()
