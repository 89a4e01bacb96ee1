"""Default deny for what leaves a pod: the programs of ``bpf/egress.bpf.c`` on its links. Called inside the namespace.

The application's packets leave through the tunnel or as answers, whatever its sockets and the capture rules do; the
tunnel decides by the registry. The programs stay attached while no node agent runs. What they share, which cgroups are
tunnels' and what may be answered, is pinned, so that a process that replaces them breaks no connection.

Packet sockets can bypass these programs. So where a link of a pod has its other end in the host's namespace (veth), a
further one is there, which lets in what has passed the pod's.

A tunnel is known by the cgroup of its process, which no pod can choose. Until a ztunnel has greeted the node agent, no
packet is taken for its own.
"""

import os
import shutil
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from meshapi import names
from meshengine.bpf import Egress, KernelUnsupported
from meshkit.linux import egress, links, netns, sockets
from meshkit.linux.egress import Egress as Programs
from meshkit.log import logger
from nodeagent.capture.ebpf import places
from nodeagent.capture.kernel import lift_memory_limit, refusals

_NAME: Final = "culvert-egress"
_PRIORITY: Final = 3
"""Behind the guards, which have reasons of their own to drop."""
_LOOPBACK: Final = "lo"
_leaving: Final = partial(egress.programs, _NAME, priority=_PRIORITY)
_arriving: Final = partial(egress.programs, _NAME, priority=_PRIORITY, way=egress.Way.ARRIVING)
_arriving_at_host: Final = partial(egress.programs, "culvert-egress-host", priority=_PRIORITY, way=egress.Way.ARRIVING)

REASONS: Final = ("unreadable", "tcp", "udp", "icmp", "protocol", "link", "bypass")
"""Why packets are dropped (``enum egress_drop`` of ``bpf/include/egress.h``)."""

_refusals: Final = partial(refusals, names.EGRESS_LABEL)
_log = logger("egress")


class EgressFilter:
    """The filters of this node's pods. Thread-safe: pods are enrolled in parallel."""

    def __init__(self, pins: Path, host: Path | None = None) -> None:
        """Make it; nothing is loaded before the first pod needs it, or a ztunnel is greeted where one did.

        Args:
            pins: folder in a BPF file system for what the programs share; made if missing.
            host: the host's network namespace; ``None``: nothing is attached there.
        """
        self._pins = pins
        self._host = host
        self._loaded: Egress | None = None
        self._tunnels: set[int] = set()
        self._refusal = ""
        self._places: places.Places | None = None
        self._own: set[int] = set()
        self._lock = threading.Lock()
        self._counts: dict[str, int] = dict.fromkeys(REASONS, 0)
        self._counted = True

    def greet(self, pid: int) -> None:
        """Let the sockets of a ztunnel be the tunnel's.

        Pods with this filter are held back where ztunnel cannot be told from other processes.

        Raises:
            OSError: the kernel does not take the cgroup.
        """
        try:
            if self._places is None:
                self._places = places.find(self._pins)
            folder = self._places.of_process(pid)
            if folder.samefile(self._places.root):
                raise OSError("ztunnel runs in the root of the unified cgroup hierarchy, where pods' processes may be")
        except OSError as error:
            if not self._refusal:
                _log.warning("packets of a ztunnel cannot be told from those of pods", reason=str(error))
            self._refusal = str(error)
            return
        self.add_tunnel(folder)

    def add_tunnel(self, cgroup: Path) -> None:
        """Let the sockets of a cgroup (a folder of the unified hierarchy) be the tunnel's. Raises ``OSError``."""
        number = cgroup.stat().st_ino
        with self._lock:
            self._tunnels.add(number)
            self._refusal = ""
            loaded = self._loaded
        if loaded is not None or self._pins.exists():
            tunnels = self._open()
            with _refusals():
                tunnels.add_tunnel(number)

    def attach(self) -> None:
        """Attach the filter to every link but loopback. Connections that peers have begun earlier are answered.

        Raises:
            OSError: a link may lack the filter; the text says what the kernel lacks.
        """
        if self._refusal:
            raise OSError(f"{names.EGRESS_LABEL}: {self._refusal}")
        inode = netns.inode()
        with _arriving() as arriving, _leaving() as leaving:
            with self._lock:
                is_own = inode in self._own
            if is_own and not _lacking(arriving, leaving) and not self._at_host(_unattached):
                return
            accepted = () if leaving.attached else sockets.accepted()
            programs = self._load(inode, accepted)
            try:
                for link in leaving.links - {_LOOPBACK}:
                    arriving.attach(link, programs[1])
                    leaving.attach(link, programs[0])
                # Last: until the pod's own are there, what it sends is not marked as passed.
                self._at_host(lambda found: _attach_all(found, programs[2]))
            finally:
                for program in programs:
                    os.close(program)
        with self._lock:
            self._own.add(inode)

    def detach(self) -> None:
        """Detach the filter from every link that has it.

        Raises:
            OSError: a link may still have it.
        """
        is_used = self._loaded is not None or self._pins.exists()
        with _leaving() as leaving:
            if not is_used and not leaving.attached:
                return  # where no pod has the label, a pod costs no more than this
            # First: what is sent without the pod's own is not marked as passed.
            self._at_host(_detach_all)
            with _arriving() as arriving:
                for programs in (leaving, arriving):
                    _detach_all(programs)
        with self._lock:
            self._own.discard(netns.inode())

    def missing(self) -> tuple[str, ...]:
        """Return the names of links that lack the filter."""
        with _arriving() as arriving, _leaving() as leaving:
            inside = tuple(f"egress filter of {link}" for link in sorted(_lacking(arriving, leaving)))
        return inside + tuple(f"egress filter of the host's {link}" for link in sorted(self._at_host(_unattached)))

    def drops(self) -> dict[str, int]:
        """Return the number of packets that the filters have dropped, by reason; the last that could be read."""
        with self._lock:
            loaded = self._loaded
        if loaded is not None:
            try:
                self._counts = dict(loaded.drops())
                self._counted = True
            except KernelUnsupported as error:
                if self._counted:  # once, not at every look at the metrics
                    _log.warning("packets that the egress filter drops cannot be counted", reason=str(error))
                self._counted = False
        return self._counts

    def uninstall(self) -> None:
        """Remove what is pinned. Filters that are attached go on, and know no later tunnel."""
        with self._lock:
            self._loaded = None
        shutil.rmtree(self._pins, ignore_errors=True)

    def _at_host(self, work: Callable[[Programs], frozenset[str]]) -> frozenset[str]:
        """Run ``work`` with the ends of this namespace's links in the host's namespace; without any, do nothing."""
        if self._host is None:
            return frozenset()
        host = os.open(self._host, os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = links.other_ends(host)
        finally:
            os.close(host)
        if not found:
            return frozenset()

        def there() -> frozenset[str]:
            with _arriving_at_host(only=found) as programs:
                return work(programs)

        return netns.run(self._host, there)

    def _open(self) -> Egress:
        with self._lock:
            if self._loaded is None:
                hint = lift_memory_limit()
                mark = (names.TUNNEL_MARK, names.TUNNEL_MARK_MASK)
                try:
                    with _refusals():
                        self._loaded = loaded = Egress(self._pins, tunnel_mark=mark)
                        for number in self._tunnels:
                            loaded.add_tunnel(number)
                except OSError as error:
                    raise OSError(f"{error}{hint}") from error
            return self._loaded

    def _load(self, inode: int, accepted: tuple[sockets.Connection, ...]) -> tuple[int, int, int]:
        ranges = {held.interface.network for held in links.addresses() if _is_on_link(held.interface.network)}
        loaded = self._open()
        with _refusals():
            return loaded.load(
                netns=inode,
                on_link=[(str(one.network_address), one.prefixlen) for one in sorted(ranges)],
                accepted=[(*one.local, *one.remote, one.open) for one in accepted],
            )


def _is_on_link(network: links.Network) -> bool:
    """Return whether neighbours are in a range; the programs know link-local addresses by themselves."""
    return network.version == 6 and network.prefixlen < network.max_prefixlen and not network.is_link_local


def _lacking(arriving: Programs, leaving: Programs) -> frozenset[str]:
    return leaving.links - {_LOOPBACK} - (arriving.attached.keys() & leaving.attached.keys())


def _unattached(programs: Programs) -> frozenset[str]:
    return programs.links - programs.attached.keys()


def _attach_all(programs: Programs, program: int) -> frozenset[str]:
    for link in programs.links:
        programs.attach(link, program)
    return programs.links


def _detach_all(programs: Programs) -> frozenset[str]:
    for link in list(programs.attached):
        programs.detach(link)
    return programs.links
