"""The BPF programs on the links of a pod (``bpf/flows.bpf.c``). Called inside the namespace.

On loopback, for as long as connections are carried; on every other link that the plan covers, the guard. A process
replaces what it finds once for each pod: the programs of an earlier process may be of an older version, or belong to
maps that are gone. Connections that are open then are exempt from the new guard, as the old one has let them pass.
"""

import os
import threading
from functools import partial
from typing import Final

from meshapi import names
from meshkit.linux import egress, sockets
from meshkit.linux.egress import Egress
from nodeagent.capture.ebpf.node import EbpfNode
from nodeagent.capture.guard import Guard
from nodeagent.capture.plan import Mode, PodPlan

_NAME: Final = "culvert-flows"
_PRIORITY: Final = 2
"""Behind the guard of the other backends, beside which it is while one backend follows the other."""
_LOOPBACK: Final = "lo"
_leaving: Final = partial(egress.programs, _NAME, priority=_PRIORITY)
_arriving: Final = partial(egress.programs, _NAME, priority=_PRIORITY, way=egress.Way.ARRIVING)


class PodLinks:
    """The programs of this node's pods. Thread-safe."""

    def __init__(self, node: EbpfNode, guard: Guard, *, guarded: bool) -> None:
        """Load from ``node``; what guards drop is counted with ``guard``. ``guarded``: whether there are any."""
        self._node = node
        self._guard = guard
        self._guarded = guarded
        self._own: set[tuple[int, bool]] = set()
        self._guards: dict[int, int] = {}
        self._lock = threading.Lock()

    def carry(self, cookie: int) -> bool:
        """Attach what carries connections: before the plan. Return whether any was lacking, or of an earlier process.

        Raises:
            OSError: the link may lack it.
        """
        with _leaving() as leaving, _arriving() as arriving:
            if not _lacking(leaving, arriving) and self._is_own(cookie, guard=False):
                return False
            *programs, guard = self._node.link_programs(cookie)
            self._keep_guard(cookie, guard)
            try:
                leaving.attach(_LOOPBACK, programs[0])
                for link in arriving.links:
                    arriving.attach(link, programs[1] if link == _LOOPBACK else programs[2])
            finally:
                for program in programs:
                    os.close(program)
        self._mark_own(cookie, guard=False)
        return True

    def guard(self, cookie: int, plan: PodPlan) -> None:
        """Attach the guard to the links that the plan covers, and detach it from others: after the plan.

        Raises:
            OSError: a link may lack the guard.
        """
        with _leaving() as programs:
            wanted = self._wanted(plan, programs)
            found = programs.attached.keys() - {_LOOPBACK}
            for link in found - wanted:
                programs.detach(link)
            lacking = wanted - found if self._is_own(cookie, guard=True) else wanted
            if lacking:
                # A connection that an earlier guard holds back is not older than the guard.
                older = [one for one in sockets.outside(names.TUNNEL_PORTS) if one.open or not found]
                program = self._take_guard(cookie, older)
                try:
                    for link in lacking:
                        programs.attach(link, program)
                finally:
                    os.close(program)
                self._mark_own(cookie, guard=True)
            self._guard.count(programs)

    def detach(self, cookie: int) -> bool:
        """Detach everything; return whether there was anything.

        Raises:
            OSError: a link may still have its program.
        """
        with _leaving() as leaving, _arriving() as arriving:
            self._guard.count(leaving)
            found = [(place, link) for place in (leaving, arriving) for link in place.attached]
            for place, link in found:
                place.detach(link)
        self.forget(cookie)
        return bool(found)

    def forget(self, cookie: int) -> None:
        """Forget a namespace that has gone."""
        with self._lock:
            self._own -= {(cookie, False), (cookie, True)}
            kept = self._guards.pop(cookie, None)
        if kept is not None:
            os.close(kept)

    def missing(self, plan: PodPlan) -> tuple[str, ...]:
        """Return the names of links that lack their program."""
        if plan.mode is Mode.NONE:
            return ()
        with _leaving() as leaving, _arriving() as arriving:
            self._guard.count(leaving)
            unguarded = sorted(self._wanted(plan, leaving) - leaving.attached.keys())
            return tuple(f"guard of {link}" for link in unguarded) + _lacking(leaving, arriving)

    def _wanted(self, plan: PodPlan, programs: Egress) -> frozenset[str]:
        if plan.mode is not Mode.CAPTURE or not self._guarded:
            return frozenset()
        return programs.links - {_LOOPBACK, *plan.excluded_interfaces}

    def _is_own(self, cookie: int, *, guard: bool) -> bool:
        with self._lock:
            return (cookie, guard) in self._own

    def _mark_own(self, cookie: int, *, guard: bool) -> None:
        with self._lock:
            self._own.add((cookie, guard))

    def _keep_guard(self, cookie: int, program: int) -> None:
        """Keep the guard that was loaded with the other programs until the plan is in force."""
        if not self._guarded:
            os.close(program)
            return
        with self._lock:
            earlier, self._guards[cookie] = self._guards.get(cookie), program
        if earlier is not None:
            os.close(earlier)

    def _take_guard(self, cookie: int, older: list[sockets.Connection]) -> int:
        """Return the guard that was kept, or one from which connections are exempt; the caller closes it."""
        with self._lock:
            kept = self._guards.pop(cookie, None)
        if kept is not None and not older:
            return kept
        if kept is not None:
            os.close(kept)
        return self._node.guard_program(cookie, older)


def _lacking(leaving: Egress, arriving: Egress) -> tuple[str, ...]:
    """Return what carries captured connections and is not attached, in words."""
    links = arriving.links - arriving.attached.keys() | ({_LOOPBACK} - leaving.attached.keys())
    return tuple(f"programs of {link}" for link in sorted(links))
