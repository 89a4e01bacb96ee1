"""What every backend needs in a pod's namespace besides rules. Called inside the namespace."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from meshapi import names
from meshkit.linux import conntrack, marks, sysctl
from nodeagent.capture import guard
from nodeagent.capture.plan import REPLIES, Mode, PodPlan

_SETTINGS: Final = {
    # When one of two ztunnels closes its listener, connections that are queued in it go to the other's (Linux 5.14).
    # Without it a few may be reset in an upgrade.
    "net/ipv4/tcp_migrate_req": "1",
    # The tunnel connects to the application in its clients' names. Of one client that connects often, every port waits
    # for a minute in TIME_WAIT; with time stamps a port can be used again after a second (RFC 6191). Without it, some
    # 375 new connections a second between one client and one pod are the most that can be sustained.
    "net/ipv4/tcp_tw_reuse": "1",
}
"""Settings of a captured pod's namespace. Here and not in the engine, because ztunnel should not need what it takes to
write them from a container. They stay when the pod is let go: an application notices neither."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """What stands around the rules.

    Attributes:
        guarded: whether pods get a guard (see ``guard``).
    """

    guarded: bool = True

    def prepare(self) -> None:
        """Put in place what rules will need; changes nothing without them."""
        marks.add(REPLIES)
        for name, value in _SETTINGS.items():
            # Capture is right without them, so a kernel that does not know one is no reason to leave a pod uncaptured.
            with suppress(OSError):
                sysctl.write(name, value)

    def before(self, plan: PodPlan) -> None:
        """Do what comes before the rules are made as planned."""
        # An agent that may not guard takes away what one that might has left.
        if plan.mode is not Mode.CAPTURE or not self.guarded:
            guard.lower()

    def after(self, plan: PodPlan) -> None:
        """Do what comes after the rules were made as planned.

        The way back for answers outlives them: a captured connection needs it from its first packet to its last.
        """
        if self.guarded and plan.mode is Mode.CAPTURE:
            guard.hoist(plan)
        if plan.mode is Mode.NONE:
            marks.remove(REPLIES)

    def rules_are_back(self) -> None:
        """Do what comes after rules that were missing."""
        # What an application began meanwhile waits for an answer, and shall be captured when it is sent again.
        with suppress(OSError):
            conntrack.forget_opening(names.PASSED_MARK)

    def repair(self, plan: PodPlan) -> tuple[str, ...]:
        """Put back what is not there although the plan needs it, and name it."""
        gone = self.missing(plan)
        if gone:
            self.prepare()
            self.after(plan)
        return gone

    def missing(self, plan: PodPlan) -> tuple[str, ...]:
        """Name what is not there although the plan needs it."""
        if plan.mode is Mode.NONE:
            return ()
        return marks.missing(REPLIES) + (guard.missing(plan) if self.guarded else ())


GUARDED: Final = Preparation()
