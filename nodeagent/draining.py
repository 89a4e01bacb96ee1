"""Pods that were let go and still have captured connections.

Their rules redirect nothing new, but open connections need them. They are removed when the last such connection has
ended; the kernel is asked, so that an upgrade or a restart of ztunnel makes no difference.
"""

import asyncio
import os
from dataclasses import dataclass
from typing import Final

from meshapi import names
from meshkit.linux import netns, sockets
from meshkit.log import logger
from nodeagent.capture.backend import CaptureBackend
from nodeagent.capture.plan import Mode, PodPlan

_log = logger("draining")

_AT_LEAST_S: Final = 15.0
"""Peers that have not heard yet still open tunnels for a while, and those need the way back for answers."""
_LOOK_EVERY_S: Final = 2.0


@dataclass(slots=True)
class _Pod:
    key: str
    namespace: int
    since: float


class Draining:
    """Owns the namespaces of pods that drain."""

    def __init__(self, backend: CaptureBackend) -> None:
        self._backend = backend
        self._pods: dict[str, _Pod] = {}

    def add(self, uid: str, key: str, namespace: int) -> None:
        """Watch a pod until it has drained; takes the descriptor over."""
        self.forget(uid)
        self._pods[uid] = _Pod(key, namespace, asyncio.get_running_loop().time())

    def forget(self, uid: str) -> None:
        """A pod is captured again."""
        pod = self._pods.pop(uid, None)
        if pod is not None:
            os.close(pod.namespace)

    async def run(self) -> None:
        """Remove the rules of what has drained, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            now = asyncio.get_running_loop().time()
            for uid, pod in list(self._pods.items()):
                if now - pod.since >= _AT_LEAST_S:
                    await self._look(uid, pod)

    async def finish(self, patience_s: float) -> None:
        """Remove all rules: of pods that drain within ``patience_s`` then, of the others at its end.

        ``run`` must be running.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience_s
        while self._pods and loop.time() < deadline:  # noqa: ASYNC110  (they go one by one, in the kernel)
            await asyncio.sleep(0.1)
        for uid, pod in list(self._pods.items()):
            _log.info("rules removed before all has drained", pod=pod.key)
            await asyncio.to_thread(self._backend.apply, pod.namespace, PodPlan(mode=Mode.NONE))
            self.forget(uid)

    async def _look(self, uid: str, pod: _Pod) -> None:
        try:
            open_connections = await asyncio.to_thread(
                netns.run, pod.namespace, lambda: sockets.connections_on(names.TUNNEL_PORTS)
            )
            if open_connections or self._pods.get(uid) is not pod:
                return
            await asyncio.to_thread(self._backend.apply, pod.namespace, PodPlan(mode=Mode.NONE))
        except OSError as error:
            _log.warning("rules not removed, will try again", pod=pod.key, reason=str(error))
            return
        if self._pods.get(uid) is pod:
            self.forget(uid)
            _log.info("rules removed", pod=pod.key)
