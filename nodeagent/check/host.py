"""What the capture stands on besides the kernel: mounts, the CNI configuration, the clock, sizes of packets."""

import ctypes
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from meshkit.linux import mounts
from nodeagent.check.result import Level, Result
from nodeagent.cni import chain

_UNSYNCHRONIZED: Final = 0x40  # STA_UNSYNC of adjtimex(2)
_SMALLEST_MTU: Final = 1280
"""Of IPv6 (RFC 8200, 5)."""


def check_mounts(table: Path, pins: Path) -> Iterator[Result]:
    """Look for the file systems that the backend ebpf needs, in the mount table of the host's process 1."""
    mounted = mounts.mounted(table)
    unified = [str(one.target) for one in mounted if one.kind == "cgroup2"]
    consequence = "the backend ebpf is impossible"
    if unified:
        hybrid = any(one.kind == "cgroup" for one in mounted)
        yield Result("mounts", "cgroup2", Level.OK, f"{unified[0]}{', beside version 1' if hybrid else ''}")
    else:
        yield Result("mounts", "cgroup2", Level.LIMIT, f"not mounted; {consequence}: boot with unified cgroups")
    bpf = [str(one.target) for one in mounted if one.kind == "bpf"]
    wanted = str(pins).removeprefix("/proc/1/root")
    if any(wanted.startswith(target) for target in bpf):
        yield Result("mounts", "bpf", Level.OK, wanted)
    else:
        yield Result("mounts", "bpf", Level.LIMIT, f"none at {wanted}; {consequence}: mount -t bpf bpf /sys/fs/bpf")


def check_cni(folder: Path, binaries: Path, plugin: str) -> Iterator[Result]:
    """Look at the CNI configuration into which the node agent chains its plugin."""
    if not folder.is_dir():
        yield Result(
            "cni", "configuration", Level.FAULT, f"there is no folder {folder}; install a network plugin first"
        )
        return
    name = chain.primary(entry.name for entry in folder.iterdir())
    if name is None:
        yield Result("cni", "configuration", Level.FAULT, f"{folder} has none; install a network plugin first")
        return
    try:
        content = (folder / name).read_text()
        plugins = [str(one.get("type")) for one in json.loads(chain.chained(content, {"type": plugin}))["plugins"]]
    except (OSError, ValueError) as error:
        yield Result("cni", "configuration", Level.FAULT, f"{folder / name}: {error}")
        return
    yield Result("cni", "configuration", Level.OK, f"{folder / name}: {', '.join(plugins)}")
    if not chain.is_chained(content):
        yield Result("cni", "plugin", Level.OK, "not installed; the node agent does so")
    elif (binaries / plugin).exists():
        yield Result("cni", "plugin", Level.OK, f"installed as {binaries / plugin}")
    else:
        yield Result(
            "cni", "plugin", Level.FAULT, f"{binaries / plugin} is missing and new pods fail; run the node agent"
        )


def check_clock() -> Iterator[Result]:
    """Ask the kernel whether anybody keeps its clock right: certificates are valid from a minute to a minute."""
    state = ctypes.create_string_buffer(256)  # struct timex: modes, offset, freq, maxerror, esterror, status
    if ctypes.CDLL(None).adjtimex(state) < 0:
        yield Result("clock", "synchronized", Level.LIMIT, "the kernel does not say")
        return
    status = int.from_bytes(state.raw[40:44], "little")
    if status & _UNSYNCHRONIZED:
        fix = "certificates fail on nodes whose clocks differ by minutes; run a time service"
        yield Result("clock", "synchronized", Level.LIMIT, f"the clock is not synchronized; {fix}")
    else:
        yield Result("clock", "synchronized", Level.OK)


def check_mtu(folder: Path) -> Iterator[Result]:
    """Compare the sizes of packets of the host's links."""
    sizes = {link.name: int((link / "mtu").read_text()) for link in sorted(folder.iterdir()) if link.name != "lo"}
    small = {name: size for name, size in sizes.items() if size < _SMALLEST_MTU}
    if small:
        listed = ", ".join(f"{name} {size}" for name, size in small.items())
        yield Result("mtu", "links", Level.LIMIT, f"{listed}: below {_SMALLEST_MTU}, so that IPv6 does not work there")
    else:
        listed = ", ".join(sorted({str(size) for size in sizes.values()}, key=int))
        yield Result("mtu", "links", Level.OK, listed or "no link but loopback")
