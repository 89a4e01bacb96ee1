"""The state of each pod of this node, and which transitions are legal.

``docs/architecture.md`` draws the states. ``transitions`` has one function for each transition; it makes the change and
then records it here. No state is kept on disk: after a restart every pod is ``NEW``, and the kernel and the pod's
annotation say what a previous node agent has left.

Rule 1: a transition that is not in ``LEGAL`` is a programming error. It is reported, and recorded all the same: the
record follows what was done.
Rule 2: a transition to the present state is none.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from meshkit.log import logger

_log = logger("enrolment")


class State(StrEnum):
    """The states, in the words of logs and debug pages."""

    NEW = "new"
    """Known from Kubernetes, not reconciled since the node agent's start."""
    NOT_ENROLLED = "not-enrolled"
    """Left alone: nothing of it is captured."""
    WAITING = "waiting"
    """Enrolled, not captured yet: its sandbox is not ready, or a step has failed and is retried."""
    CAPTURING = "capturing"
    """Its certificate, listeners, probe exemption and rules are being set up."""
    CAPTURED = "captured"
    """Its rules are in place; peers do not know it yet."""
    ANNOUNCED = "announced"
    """Captured, and its annotation says so: peers use HBONE."""
    UNENROLLING = "unenrolling"
    """Its annotation and its rules for new connections are being removed."""
    DRAINING = "draining"
    """Nothing new is captured; rules are left for open connections."""


LEGAL: Final[Mapping[State, frozenset[State]]] = {
    State.NEW: frozenset(
        {State.NOT_ENROLLED, State.WAITING, State.CAPTURING, State.ANNOUNCED, State.DRAINING},
    ),
    State.NOT_ENROLLED: frozenset({State.WAITING, State.CAPTURING, State.DRAINING}),
    State.WAITING: frozenset({State.NOT_ENROLLED, State.CAPTURING, State.DRAINING}),
    State.CAPTURING: frozenset({State.CAPTURED, State.WAITING, State.DRAINING}),
    State.CAPTURED: frozenset({State.ANNOUNCED, State.UNENROLLING, State.CAPTURING, State.NOT_ENROLLED}),
    State.ANNOUNCED: frozenset({State.UNENROLLING, State.CAPTURING, State.NOT_ENROLLED}),
    State.UNENROLLING: frozenset({State.DRAINING, State.CAPTURED, State.CAPTURING, State.NOT_ENROLLED}),
    State.DRAINING: frozenset({State.NOT_ENROLLED, State.CAPTURING}),
}
"""The states that may follow each state. From any of them a pod's record ends with the pod.

``NEW`` to ``ANNOUNCED`` and to ``DRAINING``: taken over from a previous node agent. ``NOT_ENROLLED`` or ``WAITING`` to
``DRAINING``: the pod's annotation says that it was captured. ``CAPTURING`` to ``DRAINING``: a pod that drains was
enrolled again, and the capture failed. Back to ``CAPTURING``: the pod has a new sandbox. To ``NOT_ENROLLED`` without
``DRAINING``: its processes have ended.
"""


class IllegalTransition(Exception):
    """A transition that ``LEGAL`` lacks.

    Attributes:
        uid: of the pod.
        before: its state.
        after: its next state.
    """

    def __init__(self, uid: str, before: State, after: State) -> None:
        super().__init__(f"pod {uid} cannot change from {before} to {after}")
        self.uid = uid
        self.before = before
        self.after = after


@dataclass(frozen=True, slots=True)
class PodRecord:
    """What is recorded of a pod.

    Attributes:
        state: see ``State``.
        since: when it entered the state, in UTC.
        failure: why the last reconciliation failed; empty once one has succeeded.
    """

    state: State
    since: datetime
    failure: str = ""


def log_illegal(error: IllegalTransition) -> None:
    """Log an illegal transition, as production does; a test raises it."""
    _log.error("illegal transition of a pod, a fault of the node agent", uid=error.uid, reason=str(error))


class PodStates:
    """The records of this node's pods, by UID.

    Args:
        on_illegal: called with an illegal transition, before it is recorded.
        now: the clock, in UTC.
    """

    def __init__(
        self,
        on_illegal: Callable[[IllegalTransition], None] = log_illegal,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._on_illegal = on_illegal
        self._now = now
        self._records: dict[str, PodRecord] = {}

    def observe(self, uid: str) -> PodRecord:
        """Return a pod's record; the first call for a pod begins it."""
        record = self._records.get(uid)
        if record is None:
            record = self._records[uid] = PodRecord(State.NEW, self._now())
        return record

    def state(self, uid: str) -> State:
        """Return a pod's state; ``NEW`` without a record."""
        record = self._records.get(uid)
        return State.NEW if record is None else record.state

    def move(self, uid: str, after: State, *, since: datetime | None = None) -> None:
        """Record that a pod has entered a state, now or, where an attempt to leave it has failed, at ``since``."""
        before = self.observe(uid)
        if after is before.state:
            return
        if after not in LEGAL[before.state]:
            self._on_illegal(IllegalTransition(uid, before.state, after))
        self._records[uid] = PodRecord(after, since or self._now(), before.failure)

    def fail(self, uid: str, reason: str) -> None:
        """Record why an attempt has failed; it is retried."""
        self._records[uid] = replace(self.observe(uid), failure=reason)

    def succeed(self, uid: str) -> None:
        """Remove the recorded failure."""
        record = self._records.get(uid)
        if record is not None and record.failure:
            self._records[uid] = replace(record, failure="")

    def forget(self, uid: str) -> None:
        """End a pod's record: the pod is gone."""
        self._records.pop(uid, None)
