"""Unenrolled pods that still have captured connections.

Their rules redirect no new connection, but open connections need them. The rules are removed when the last such
connection has ended. The kernel lists the connections, so an upgrade or a restart of ztunnel makes no difference.
"""

import asyncio
import os
from dataclasses import dataclass
from typing import Final

from meshapi import names
from meshkit.linux import netns, sockets
from meshkit.log import logger
from nodeagent.capture.plan import Mode, PodPlan
from nodeagent.capture.pod import PodCapture, Sandbox
from nodeagent.enrolment.locks import PodLocks
from nodeagent.enrolment.state import PodStates, State

_log = logger("draining")

_AT_LEAST_S: Final = 15.0
"""Peers that do not know yet still open tunnels for a while, and those need the return route."""
_LOOK_EVERY_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class _Pod:
    sandbox: Sandbox
    since: float

    @property
    def key(self) -> str:
        return self.sandbox.pod.key


class Draining:
    """Owns the sandboxes of draining pods."""

    def __init__(self, capture: PodCapture, states: PodStates, locks: PodLocks) -> None:
        self._capture = capture
        self._states = states
        self._locks = locks
        self._pods: dict[str, _Pod] = {}

    def __contains__(self, uid: object) -> bool:
        return uid in self._pods

    def add(self, sandbox: Sandbox) -> None:
        """Track a pod until it has drained; owns the descriptor."""
        uid = sandbox.pod.uid
        self.forget(uid)
        self._pods[uid] = _Pod(sandbox, asyncio.get_running_loop().time())

    def forget(self, uid: str) -> None:
        """Stop tracking a pod: it is captured again."""
        pod = self._pods.pop(uid, None)
        if pod is not None:
            os.close(pod.sandbox.netns)

    async def run(self) -> None:
        """Remove the rules of pods that have drained, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            now = asyncio.get_running_loop().time()
            for uid, pod in list(self._pods.items()):
                # A pod that is being captured again is left to that; its rules are not removed meanwhile.
                if now - pod.since >= _AT_LEAST_S and not self._locks.of(uid).locked():
                    async with self._locks.of(uid):
                        await self._look(uid, pod)

    async def finish(self, timeout_s: float) -> None:
        """Remove all rules: those of a pod when it has drained, and the rest after ``timeout_s`` seconds.

        ``run`` must be running.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while self._pods and loop.time() < deadline:  # noqa: ASYNC110  (the kernel reports no event)
            await asyncio.sleep(0.1)
        for uid, pod in list(self._pods.items()):
            _log.info("rules removed before the pod has drained", pod=pod.key)
            await asyncio.to_thread(self._capture.apply, pod.sandbox, PodPlan(mode=Mode.NONE))
            self._drained(uid)

    async def _look(self, uid: str, pod: _Pod) -> None:
        try:
            open_connections = await asyncio.to_thread(
                netns.run, pod.sandbox.netns, lambda: sockets.carried(names.TUNNEL_PORTS)
            )
            if open_connections or self._pods.get(uid) is not pod:
                return
            await asyncio.to_thread(self._capture.apply, pod.sandbox, PodPlan(mode=Mode.NONE))
        except OSError as error:
            _log.warning("cannot remove rules, retrying", pod=pod.key, reason=str(error))
            return
        if self._pods.get(uid) is pod:
            self._drained(uid)
            _log.info("rules removed", pod=pod.key)

    def _drained(self, uid: str) -> None:
        """DRAINING → NOT_ENROLLED, if the pod is still there."""
        self.forget(uid)
        if self._states.state(uid) is State.DRAINING:
            self._states.move(uid, State.NOT_ENROLLED)
