"""The ZDS socket: every ztunnel that connects gets a snapshot, then the changes.

During an upgrade two are connected: new workloads go to the latest, removals to all. Without a ztunnel no workload can
be added: a pod is captured only after its listeners are open.
"""

import asyncio
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from meshapi.proto import zds_pb2
from meshkit import unix
from meshkit.log import logger
from nodeagent.zds.session import Session, SessionEnded

_log = logger("zds")

_ACCEPT_INTERVAL_S = 0.2


@dataclass(frozen=True, slots=True)
class Served:
    """A workload that ztunnel serves. Its owner closes the descriptor."""

    info: zds_pb2.WorkloadInfo
    namespace: int


class NotConnected(Exception):
    """No ztunnel is connected."""


class ZdsServer:
    """Serves ztunnels. ``workloads`` is the table of captured pods; it is read for each snapshot."""

    def __init__(
        self, path: Path, workloads: Mapping[str, Served], greet: Callable[[int], None] = lambda _: None
    ) -> None:
        """Serve at ``path``.

        Args:
            path: of the socket.
            workloads: the captured pods.
            greet: called on a thread with the process id of each ztunnel, before it is sent anything. Where it raises
                ``OSError``, the ztunnel is not served and will connect again.
        """
        self._path = path
        self._workloads = workloads
        self._greet = greet
        self._sessions: list[Session] = []
        self._connected = asyncio.Event()

    @property
    def connected(self) -> bool:
        """Whether a ztunnel is connected and has taken its snapshot."""
        return bool(self._sessions)

    async def wait_connected(self) -> None:
        """Wait until a ztunnel has taken its snapshot."""
        await self._connected.wait()

    async def add(self, uid: str, served: Served) -> None:
        """Add a workload to the latest ztunnel; return when its listeners are open.

        Raises:
            NotConnected: no ztunnel is connected, or it disconnected.
            OSError: it cannot serve the workload; the text says why.
        """
        if not self._sessions:
            raise NotConnected("no ztunnel is connected")
        session = self._sessions[-1]
        try:
            error = await session.add(uid, served.info, served.namespace)
        except SessionEnded as ended:
            self._drop(session)
            raise NotConnected(f"ztunnel disconnected: {ended}") from ended
        if error:
            raise OSError(f"ztunnel: {error}")

    async def remove(self, uid: str) -> None:
        """Remove a workload from all ztunnels; a disconnected one does not serve it either."""
        for session in list(self._sessions):
            try:
                await session.remove(uid)
            except SessionEnded:
                self._drop(session)

    async def run(self) -> None:
        """Accept ztunnels until cancelled.

        Raises:
            OSError: the socket cannot be bound.
        """
        listener, inode = unix.listen(self._path, socket.SOCK_SEQPACKET)
        with listener, unix.published(self._path, inode):
            loop = asyncio.get_running_loop()
            async with asyncio.TaskGroup() as tasks:
                while True:
                    connection, _ = await loop.sock_accept(listener)
                    connection.setblocking(False)
                    tasks.create_task(self._serve(Session(connection), _peer(connection)))
                    await asyncio.sleep(_ACCEPT_INTERVAL_S)

    async def _serve(self, session: Session, pid: int) -> None:
        try:
            await session.hello()
            await asyncio.to_thread(self._greet, pid)
            count = await self._send_snapshot(session)
            self._sessions.append(session)
            self._connected.set()
            _log.info("ztunnel connected", workloads=count)
            await session.ended()
            reason = "connection closed"
        except SessionEnded as ended:
            reason = str(ended)
        except OSError as error:
            reason = f"cannot be served: {error}"
        finally:
            self._drop(session)
        _log.info("ztunnel disconnected", reason=reason)

    async def _send_snapshot(self, session: Session) -> int:
        """Send all workloads; changes made meanwhile are sent too, so loop until nothing is missing."""
        sent: dict[str, Served] = {}
        while missing := {uid: one for uid, one in self._workloads.items() if sent.get(uid) is not one}:
            for uid, served in missing.items():
                error = await session.add(uid, served.info, served.namespace)
                if error:
                    _log.warning("ztunnel cannot serve a workload yet", uid=uid, reason=error)
                sent[uid] = served
        await session.snapshot_sent()
        for uid in sent.keys() - self._workloads.keys():
            await session.remove(uid)
        return len(sent)

    def _drop(self, session: Session) -> None:
        session.close()
        if session in self._sessions:
            self._sessions.remove(session)
        if not self._sessions:
            self._connected.clear()


def _peer(connection: socket.socket) -> int:
    """Return the id of the process at the other end."""
    (pid,) = struct.unpack_from("=i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(pid)
