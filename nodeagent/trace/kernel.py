"""The one door to bcc: probes on this node's kernel, and what they report.

bcc is Debian's ``python3-bpfcc``, which is no part of Culvert. It compiles for the running kernel, so it needs that
kernel's headers, and root.
"""

import importlib
import re
import shutil
import subprocess
import sys
import time
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, Final

from nodeagent.trace import program
from nodeagent.trace.events import Endpoint, KernelEvent, What

_DEBIAN_PACKAGES: Final = "/usr/lib/python3/dist-packages"
_KFREE_SKB: Final = "events/skb/kfree_skb/format"
_TRACING: Final = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
_PAGES: Final = 256
"""Of each processor's buffer."""
_NO_DROPS: Final = frozenset({"NOT_DROPPED_YET", "CONSUMED", "NOT_SPECIFIED"})
"""Reasons of packets that are at their end for no fault: some places free every packet without giving a reason."""


class NoKernelEvents(Exception):
    """bcc cannot be used; the text is one sentence with the fix."""


class Kernel:
    """Probes that are attached until ``close``.

    Attributes:
        lost: events that did not fit into the buffers.
        missing: functions of the kernel that cannot be probed here.
    """

    def __init__(self, bpf: Any, reasons: dict[int, str]) -> None:
        self.lost = 0
        self.missing: list[str] = []
        self._bpf = bpf
        self._reasons = reasons
        self._began_s = time.time() - time.monotonic()
        self._waiting: list[KernelEvent] = []

    def poll(self, timeout_s: float) -> list[KernelEvent]:
        """Wait for events; returns those that have come, of several processors, not in order."""
        self._bpf.perf_buffer_poll(timeout=round(timeout_s * 1000))
        found, self._waiting = self._waiting, []
        return found

    def close(self) -> None:
        """Detach the probes."""
        self._bpf.cleanup()

    def attach(self) -> None:
        """Attach what ``program`` names."""
        for attach, probes in (
            (self._bpf.attach_kprobe, program.PROBES),
            (self._bpf.attach_kretprobe, program.RETURN_PROBES),
        ):
            for function, handler in probes.items():
                try:
                    attach(event=function, fn_name=handler)
                except Exception:  # what bcc raises; a kernel may have inlined the function
                    self.missing.append(function)
        self._bpf["events"].open_perf_buffer(self._take, page_cnt=_PAGES, lost_cb=self._count_lost)

    def _take(self, _: int, data: Any, __: int) -> None:
        event = self._bpf["events"].event(data)
        what = What(event.what)
        detail = self._reason(event.detail) if what is What.DROP else ""
        if detail in _NO_DROPS:
            return
        local = _endpoint(event.family, bytes(event.local), event.local_port)
        remote = _endpoint(event.family, bytes(event.remote), event.remote_port)
        process = event.process.decode(errors="replace")
        at_s = self._began_s + event.at_ns / 1e9
        self._waiting.append(KernelEvent(at_s, what, process, event.pid, local, remote, detail))

    def _reason(self, number: int) -> str:
        """Return the reason's name; a kernel before 5.17 gives the place in its code instead."""
        if self._reasons:
            return self._reasons.get(number, f"reason {number}")
        return str(self._bpf.ksym(number).decode(errors="replace"))

    def _count_lost(self, count: int) -> None:
        self.lost += count


def open_kernel(*, with_drops: bool) -> Kernel:
    """Compile, load and attach; takes seconds.

    Args:
        with_drops: whether dropped packets are reported, which costs work for each.

    Raises:
        NoKernelEvents: bcc, the kernel's headers or rights are missing.
    """
    bcc = _bcc()
    release = Path("/proc/sys/kernel/osrelease").read_text().strip()
    if not has_headers(release):
        raise NoKernelEvents(f"this kernel's headers are missing: install the package linux-headers-{release}")
    reasons = drop_reasons(_format(_KFREE_SKB))
    flags = [*(["-DDROPS"] if with_drops else []), *(["-DREASONS"] if reasons else []), "-Wno-everything"]
    try:
        kernel = Kernel(bcc.BPF(text=program.TEXT, cflags=flags), reasons)
    except Exception as error:
        why = " ".join(str(error).split())
        raise NoKernelEvents(f"bcc cannot compile for this kernel, it may be too old for its headers: {why}") from error
    kernel.attach()
    return kernel


def has_headers(release: str, root: Path = Path("/")) -> bool:
    """Return whether bcc finds the headers of a kernel: as a package, or kept by the kernel itself."""
    if (modprobe := shutil.which("modprobe")) is not None:
        subprocess.run([modprobe, "-q", "kheaders"], check=False)
    return any((root / place).exists() for place in (f"lib/modules/{release}/build", "sys/kernel/kheaders.tar.xz"))


def drop_reasons(format_text: str) -> dict[int, str]:
    """Return the names of reasons by number, from the ``format`` file of the tracepoint; none before Linux 5.17."""
    if "REC->reason" not in format_text:
        return {}
    table = format_text.rpartition("REC->reason")[2]
    return {int(number, 0): name for number, name in re.findall(r'\{\s*(\w+),\s*"([^"]+)"\s*\}', table)}


def _bcc() -> Any:
    """Import bcc, also where this Python is not Debian's."""
    try:
        return importlib.import_module("bcc")
    except ImportError:
        sys.path.append(_DEBIAN_PACKAGES)
    try:
        return importlib.import_module("bcc")
    except (ImportError, OSError):
        raise NoKernelEvents("bcc is not installed: install the package python3-bpfcc") from None
    finally:
        sys.path.remove(_DEBIAN_PACKAGES)


def _format(event: str) -> str:
    for root in _TRACING:
        path = root / event
        if path.exists():
            return path.read_text()
    raise NoKernelEvents(f"no tracefs is mounted: mount -t tracefs none {_TRACING[0]}")


def _endpoint(family: int, address: bytes, port: int) -> Endpoint:
    if family == 2:  # AF_INET
        return str(IPv4Address(address[:4])), port
    whole = IPv6Address(address)
    return str(whole.ipv4_mapped or whole), port
