"""Keeps the application's TCP in the pod while the capture rules are missing. Called inside the namespace.

The rules mark the packets that they pass on purpose (``names.PASSED_MARK``). A BPF program on the egress of the pod's
links drops the application's TCP without this mark, and the tunnel's packets to the application, which would be
unexpected there. The program is independent of the rules: flushing the rules opens no path around the tunnel, whether
or not a node agent runs that restores them.

What programs drop is counted by reason. Every program that is seen on a link is counted, those too that an earlier node
agent has attached.
"""

import os
import threading
from collections.abc import Iterable
from typing import Final

from meshapi import names
from meshengine.bpf import GuardDrops, KernelUnsupported, load_guard
from meshkit.linux import egress, sockets
from meshkit.linux.egress import Egress
from meshkit.log import logger
from nodeagent.capture.kernel import lift_memory_limit, refusals
from nodeagent.capture.plan import Mode, PodPlan

_NAME: Final = "culvert-guard"

_log = logger("guard")


class Guard:
    """The guards of this node's pods. Thread-safe: pods are enrolled in parallel."""

    def __init__(self) -> None:
        self._drops = GuardDrops()
        self._counts: dict[str, int] = dict.fromkeys(REASONS, 0)
        self._counted = True
        self._for_new_pods: int | None = None
        self._loading = threading.Lock()

    def probe(self) -> None:
        """Load and attach the program in a scratch namespace.

        Raises:
            OSError: this kernel cannot; the text says why.
        """
        with egress.programs(_NAME) as programs:
            programs.attach("lo", self._without_exemptions())
            programs.detach("lo")

    def detach(self) -> None:
        """Detach the guard. Called before the rules are removed, so that no packet is dropped for lack of a mark.

        Raises:
            OSError: a link may still have it.
        """
        with egress.programs(_NAME) as programs:
            self.count(programs)
            for link in list(programs.attached):
                programs.detach(link)

    def attach(self, plan: PodPlan) -> None:
        """Attach the guard to the links that the plan covers, after the rules.

        Connections established earlier are exempt.

        Raises:
            OSError: a link may lack the guard.
        """
        with egress.programs(_NAME) as programs:
            self.count(programs)
            wanted = _wanted(plan, programs)
            for link in programs.attached.keys() - wanted:
                programs.detach(link)
            lacking = wanted - programs.attached.keys()
            if lacking:
                self._attach(programs, lacking, sockets.outside(names.TUNNEL_PORTS))
                self.count(programs)

    def missing(self, plan: PodPlan) -> tuple[str, ...]:
        """Return the names of links that lack the guard although the plan covers them."""
        with egress.programs(_NAME) as programs:
            self.count(programs)
            return tuple(f"guard of {link}" for link in sorted(_wanted(plan, programs) - programs.attached.keys()))

    def drops(self) -> dict[str, int]:
        """Return the number of packets that guards have dropped, by reason; the last ones that could be read."""
        try:
            self._counts = dict(self._drops.totals())
        except KernelUnsupported as error:
            self._uncounted(error)
        return self._counts

    def count(self, programs: Egress) -> None:
        """Count what these programs drop, from now on; those that another module has attached too."""
        try:
            for program in set(programs.attached.values()):
                self._drops.add(program)
        except KernelUnsupported as error:
            self._uncounted(error)

    def _uncounted(self, error: KernelUnsupported) -> None:
        if self._counted:
            _log.warning("packets that the guard drops cannot be counted", reason=str(error))
        self._counted = False

    def _attach(self, programs: Egress, where: Iterable[str], preexisting: tuple[sockets.Connection, ...]) -> None:
        program = _load(preexisting) if preexisting else self._without_exemptions()
        try:
            for link in where:
                programs.attach(link, program)
        finally:
            if preexisting:
                os.close(program)

    def _without_exemptions(self) -> int:
        """Return the program for pods without earlier connections; loaded once, because loading takes 20 ms."""
        with self._loading:
            if self._for_new_pods is None:
                self._for_new_pods = _load(())
            return self._for_new_pods


REASONS: Final = ("unreadable", "unmarked", "untranslated")
"""Why packets are dropped; ``meshengine.bpf`` says what each means."""


def _load(preexisting: tuple[sockets.Connection, ...]) -> int:
    lift_memory_limit()
    with refusals():
        return load_guard(
            tunnel_mark=names.TUNNEL_MARK,
            tunnel_mark_mask=names.TUNNEL_MARK_MASK,
            passed_mark=names.PASSED_MARK,
            redirect_ports=(names.OUTBOUND_PORT, names.INBOUND_PLAINTEXT_PORT),
            preexisting=[(*one.local, *one.remote, one.open) for one in preexisting],
        )


def _wanted(plan: PodPlan, programs: Egress) -> frozenset[str]:
    """Return the links on which unmarked packets must be dropped."""
    if plan.mode is not Mode.CAPTURE:
        return frozenset()
    return programs.links - {*plan.excluded_interfaces, *plan.virtual_interfaces}
