"""Set-up of a pod's namespace that every backend needs besides rules. Called inside the namespace."""

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from meshapi import names
from meshkit.linux import conntrack, marks, sysctl
from nodeagent.capture.egress_filter import EgressFilter
from nodeagent.capture.guard import Guard
from nodeagent.capture.plan import REPLIES, Mode, PodPlan

_SETTINGS: Final = {
    # When one of two ztunnels closes its listener, connections queued in it move to the other's (Linux 5.14). Without
    # it a few may be reset in an upgrade.
    "net/ipv4/tcp_migrate_req": "1",
    # The tunnel connects to the application from its clients' addresses, and each port stays in TIME_WAIT for a minute.
    # With time stamps a port can be reused after a second (RFC 6191). Without it, one client sustains at most some 375
    # new connections a second to one pod.
    "net/ipv4/tcp_tw_reuse": "1",
}
"""Sysctls of a captured pod's namespace. Written here and not by ztunnel, which lacks the rights to write them from its
container. They stay after the pod is unenrolled: neither is visible to an application."""


@dataclass(frozen=True, slots=True)
class PodNetwork:
    """Routing, sysctls and guard around the capture rules.

    Attributes:
        guard: of the pods.
        guarded: whether pods get it.
        egress: of what leaves pods that may reach only what the registry knows; without one, none can be captured.
    """

    guard: Guard = field(default_factory=Guard)
    guarded: bool = True
    egress: EgressFilter | None = None

    def prepare(self) -> None:
        """Set up what the rules need; it has no effect without them."""
        marks.add(REPLIES)
        for name, value in _SETTINGS.items():
            # Capture is correct without them, so an old kernel that lacks one must not leave the pod uncaptured.
            with suppress(OSError):
                sysctl.write(name, value)

    def before_rules(self, plan: PodPlan) -> None:
        """Run before the rules are applied.

        Raises:
            OSError: the pod may reach only what the registry knows, and this cannot be enforced.
        """
        if _is_held(plan):
            self._filter().attach()
        # With the guard turned off, remove the one that an earlier agent attached.
        if plan.mode is not Mode.CAPTURE or not self.guarded:
            self.guard.detach()

    def after_rules(self, plan: PodPlan) -> None:
        """Run after the rules were applied.

        The return route outlives them: a captured connection needs it from its first packet to its last.
        """
        if self.guarded and plan.mode is Mode.CAPTURE:
            self.guard.attach(plan)
        if not _is_held(plan) and self.egress is not None:
            self.egress.detach()
        if plan.mode is Mode.NONE:
            marks.remove(REPLIES)

    def rules_restored(self) -> None:
        """Run after missing rules were restored."""
        # A connection that the application began meanwhile waits for its SYN-ACK; its retransmitted SYN gets captured.
        with suppress(OSError):
            conntrack.forget_opening(names.PASSED_MARK)

    def repair(self, plan: PodPlan) -> tuple[str, ...]:
        """Restore what the plan needs and is missing; return its names."""
        gone = self.missing(plan)
        if gone:
            self.prepare()
            self.before_rules(plan)
            self.after_rules(plan)
        return gone

    def missing(self, plan: PodPlan) -> tuple[str, ...]:
        """Return the names of what the plan needs and is missing."""
        if plan.mode is Mode.NONE:
            return ()
        unfiltered = self._filter().missing() if _is_held(plan) else ()
        return unfiltered + marks.missing(REPLIES) + (self.guard.missing(plan) if self.guarded else ())

    def _filter(self) -> EgressFilter:
        if self.egress is None:
            raise OSError(f"{names.EGRESS_LABEL}: no folder in a BPF file system is set for the egress filter")
        return self.egress


def _is_held(plan: PodPlan) -> bool:
    return plan.registry_only and plan.mode is Mode.CAPTURE


GUARDED: Final = PodNetwork()
