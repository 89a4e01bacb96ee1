"""What every backend needs in a pod's namespace besides rules. Called inside the namespace."""

from contextlib import suppress
from typing import Final

from meshkit.linux import marks, sysctl
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


def prepare() -> None:
    """Put in place what rules will need; changes nothing without them."""
    marks.add(REPLIES)
    for name, value in _SETTINGS.items():
        # Capture is right without them, so a kernel that does not know one is no reason to leave a pod uncaptured.
        with suppress(OSError):
            sysctl.write(name, value)


def finish(plan: PodPlan) -> None:
    """Take the way back for answers away when the rules are gone.

    It outlives them: a captured connection needs it from its first packet to its last.
    """
    if plan.mode is Mode.NONE:
        marks.remove(REPLIES)


def repair(plan: PodPlan) -> tuple[str, ...]:
    """Put back what is not there although the plan needs it, and name it."""
    gone = missing(plan)
    if gone:
        prepare()
    return gone


def missing(plan: PodPlan) -> tuple[str, ...]:
    """Name what is not there although the plan needs it."""
    return () if plan.mode is Mode.NONE else marks.missing(REPLIES)
