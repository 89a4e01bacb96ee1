"""Which workloads are served: what the node agent requested, and the engine's progress.

The engine gets one request for each; its result comes as an event. A workload whose listeners could not be opened stays
pending and is tried again every few seconds, since what is in the way (the application holding a port) may go away.
"""

import asyncio
import os
from dataclasses import dataclass

from meshapi.proto import engine_pb2, zds_pb2
from meshengine import Engine, EngineError
from meshkit.log import logger

_log = logger("workloads")

_START_TIMEOUT_S = 4.0
"""Below the five seconds after which the node agent gives up waiting for an answer."""
_RETRY_S = 5.0


@dataclass(slots=True)
class _Workload:
    message: bytes
    name: str
    namespace_fd: int
    namespace_inode: int
    ready: bool = False


class Workloads:
    """The workloads of this node, by uid. Owns a descriptor of each one's network namespace."""

    def __init__(self, engine: Engine, mode: engine_pb2.WorkloadRef.Mode = engine_pb2.WorkloadRef.CAPTURED) -> None:
        self._engine = engine
        self._mode = mode
        self._held: dict[str, _Workload] = {}
        self._starting: dict[str, asyncio.Future[str]] = {}

    async def add(self, uid: str, info: zds_pb2.WorkloadInfo, namespace_fd: int) -> str:
        """Serve a workload; takes the descriptor over. Returns an empty text, or why it is pending."""
        inode = os.fstat(namespace_fd).st_ino
        held = self._held.pop(uid, None)
        if held is not None:
            os.close(held.namespace_fd)
        ref = engine_pb2.WorkloadRef(
            uid=uid, name=info.name, namespace=info.namespace, service_account=info.service_account, mode=self._mode
        )
        name = f"{info.namespace}/{info.name}"
        self._held[uid] = _Workload(ref.SerializeToString(), name, namespace_fd, inode)
        return await self._start(uid)

    def keep(self, uid: str) -> bool:
        """Keep a workload; false when it is not known."""
        return uid in self._held

    def remove(self, uid: str) -> None:
        """Stop serving a workload; its open streams go on."""
        held = self._held.pop(uid, None)
        if held is None:
            return
        os.close(held.namespace_fd)
        self._engine.remove_workload(uid)
        _log.info("workload removed", workload=held.name, uid=uid)

    def retain(self, uids: set[str]) -> None:
        """Stop serving all workloads but these: the node agent's snapshot is complete."""
        for uid in self._held.keys() - uids:
            self.remove(uid)

    def started(self, uid: str, error: str) -> None:
        """Take the engine's answer."""
        future = self._starting.get(uid)
        if future is not None and not future.done():
            future.set_result(error)

    @property
    def active(self) -> int:
        """Workloads that are served."""
        return sum(held.ready for held in self._held.values())

    @property
    def pending(self) -> list[str]:
        """Names of workloads that are not served yet."""
        return [held.name for held in self._held.values() if not held.ready]

    @property
    def namespaces(self) -> dict[str, int]:
        """Workloads that are served, by uid, and descriptors of their namespaces; these stay ours."""
        return {uid: held.namespace_fd for uid, held in self._held.items() if held.ready}

    async def retry_pending(self) -> None:
        """Try pending workloads again, for ever."""
        while True:
            await asyncio.sleep(_RETRY_S)
            for uid in [uid for uid, held in self._held.items() if not held.ready]:
                if uid in self._held and uid not in self._starting:
                    await self._start(uid)

    async def _start(self, uid: str) -> str:
        held = self._held[uid]
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._starting[uid] = future
        try:
            self._engine.add_workload(held.message, held.namespace_fd)
            async with asyncio.timeout(_START_TIMEOUT_S):  # `wait_for` may lose a cancellation; see `tasks.happens`
                error = await future
        except TimeoutError:
            error = f"listeners are not open after {_START_TIMEOUT_S:.0f} s"
        except EngineError as refused:
            error = str(refused)
        finally:
            self._starting.pop(uid, None)
        held.ready = not error
        if error:
            _log.warning("workload pending", workload=held.name, uid=uid, reason=error)
        else:
            _log.info("workload served", workload=held.name, uid=uid)
        return error
