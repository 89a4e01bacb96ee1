"""What a lab needs of this computer, looked for before anything is made; each lack is one line with its fix."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from meshapi import names
from meshkit.linux import cgroups
from meshlab.components import node
from meshlab.errors import MissingRequirement

CNI_FOLDERS = (Path("/usr/lib/cni"), Path(names.CNI_BIN_DIR))
_TOOLS = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "nft": "nftables",
    "conntrack": "conntrack",
    "nsenter": "util-linux",
}
_BUILD_TOOLS = {"go": "golang (1.24 or newer)", "gcc": "gcc", "buildah": "buildah", "mmdebstrap": "mmdebstrap"}
_FILE_SYSTEMS = ("overlay", "bpf")
_CAP_SYS_RESOURCE = 24


def check() -> None:
    """Look at everything.

    Raises:
        MissingRequirement: one line for each thing that is missing.
    """
    check_root()
    lacks = list(_lacks())
    if lacks:
        raise MissingRequirement("\n".join(lacks))


def check_root() -> None:
    """Look whether this is root.

    Raises:
        MissingRequirement: it is not.
    """
    if os.geteuid() != 0:
        raise MissingRequirement("the lab makes namespaces and mounts, so it needs root: run it with sudo")


def cni_folder() -> Path:
    """Return where this computer keeps the CNI plugins.

    Raises:
        MissingRequirement: they are not installed.
    """
    for folder in CNI_FOLDERS:
        if all((folder / name).exists() for name in node.CNI_PLUGINS):
            return folder
    raise MissingRequirement(
        f"CNI plugins are not in {CNI_FOLDERS[0]}: install the package containernetworking-plugins"
    )


def may_lower_oom_score() -> bool:
    """Say whether processes of this computer may lower their OOM score."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_SYS_RESOURCE & 1)
    return False


def _lacks() -> Iterator[str]:
    for tool, package in _TOOLS.items():
        if shutil.which(tool) is None:
            yield f"{tool} is not installed: install the package {package} (`make setup` does)"
    for tool, package in _BUILD_TOOLS.items():
        if shutil.which(tool) is None:
            yield f"{tool} is not installed, and images are made with it: install the package {package}"
    known = Path("/proc/filesystems").read_text().split()
    for kind in _FILE_SYSTEMS:
        if kind not in known:
            yield f"this kernel has no file system {kind}: try `modprobe {kind}`"
    root = cgroups.unified_root()
    if root is None:
        yield "no cgroup2 is mounted: `mount -t cgroup2 none /sys/fs/cgroup/unified` (or boot with unified cgroups)"
    if not os.access("/proc/sys/net/netfilter", os.F_OK) and shutil.which("nft") is None:
        yield "this kernel has no nftables: try `modprobe nf_tables`"
    try:
        cni_folder()
    except MissingRequirement as error:
        yield str(error)
