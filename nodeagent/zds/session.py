"""One ZDS session with one ztunnel: hello, snapshot, changes; every message is acknowledged before the next.

Packets on a SOCK_SEQPACKET socket, one message each. Source: istio/istio, ``cni/pkg/nodeagent/ztunnelserver.go``.
"""

import asyncio
import socket
from typing import Final

from google.protobuf.message import DecodeError

from meshapi.proto import zds_pb2
from meshkit.tasks import happens

_PACKET: Final = 1024
_TIMEOUT_S: Final = 5.0


class SessionEnded(Exception):
    """The peer closed the connection or violated the protocol."""


class Session:
    """A session with one ztunnel; requests are answered in order, so one is in flight at a time."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = asyncio.Lock()

    async def hello(self) -> None:
        """Wait for the hello message.

        Raises:
            SessionEnded: it does not arrive in time, or has another version.
        """
        packet = await self._receive()
        try:
            version = zds_pb2.ZdsHello.FromString(packet).version
        except DecodeError as error:
            raise SessionEnded(f"invalid hello: {error}") from error
        if version != zds_pb2.V1:
            raise SessionEnded(f"ztunnel uses ZDS version {version}, the node agent {zds_pb2.V1}")

    async def add(self, uid: str, info: zds_pb2.WorkloadInfo, namespace: int) -> str:
        """Request that a workload is served; return an empty text or why it is not. Raises ``SessionEnded``."""
        request = zds_pb2.WorkloadRequest(add=zds_pb2.AddWorkload(uid=uid, workload_info=info))
        return await self._request(request, namespace)

    async def remove(self, uid: str) -> str:
        """Request that a workload is no longer served. Raises ``SessionEnded``."""
        removal = zds_pb2.DelWorkload(uid=uid)
        request = zds_pb2.WorkloadRequest()
        getattr(request, "del").CopyFrom(removal)
        return await self._request(request)

    async def snapshot_sent(self) -> str:
        """Mark the end of the snapshot. Raises ``SessionEnded``."""
        return await self._request(zds_pb2.WorkloadRequest(snapshot_sent=zds_pb2.SnapshotSent()))

    async def ended(self) -> None:
        """Wait until the peer closes the session; a message that is no acknowledgement ends it too."""
        while True:
            async with self._lock:
                await _readable(self._connection, 0.01)
                try:
                    packet = self._connection.recv(_PACKET, socket.MSG_PEEK | socket.MSG_DONTWAIT)
                except BlockingIOError:
                    packet = None
                except OSError:
                    return
            if packet is not None:
                return
            await asyncio.sleep(0.2)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    async def _request(self, request: zds_pb2.WorkloadRequest, descriptor: int | None = None) -> str:
        async with self._lock:
            try:
                descriptors = [] if descriptor is None else [descriptor]
                socket.send_fds(self._connection, [request.SerializeToString()], descriptors)
                packet = await self._receive()
            except OSError as error:
                raise SessionEnded(str(error)) from error
        try:
            return str(zds_pb2.WorkloadResponse.FromString(packet).ack.error)
        except DecodeError as error:
            raise SessionEnded(f"unreadable acknowledgement: {error}") from error

    async def _receive(self) -> bytes:
        if not await _readable(self._connection, _TIMEOUT_S):
            raise SessionEnded(f"no answer within {_TIMEOUT_S:.0f} s")
        try:
            packet = self._connection.recv(_PACKET)
        except OSError as error:
            raise SessionEnded(str(error)) from error
        if not packet:
            raise SessionEnded("connection closed")
        return packet


async def _readable(connection: socket.socket, timeout_s: float) -> bool:
    """Wait until the socket is readable; false on timeout."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(connection, ready.set)
    try:
        return await happens(ready, timeout_s)
    finally:
        loop.remove_reader(connection)
