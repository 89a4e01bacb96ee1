"""One conversation with one ztunnel: hello, snapshot, changes; every message is acknowledged before the next.

Packets on a SOCK_SEQPACKET socket, one message each. Source: istio/istio, ``cni/pkg/nodeagent/ztunnelserver.go``.
"""

import asyncio
import socket
from typing import Final

from google.protobuf.message import DecodeError

from meshapi.proto import zds_pb2

_PACKET: Final = 1024
_PATIENCE_S: Final = 5.0


class SessionEnded(Exception):
    """The other side is gone or does not keep to the protocol."""


class Session:
    """Speaks to one ztunnel; requests are answered in order, so one is under way at a time."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._turn = asyncio.Lock()

    async def hello(self) -> None:
        """Wait for the greeting.

        Raises:
            SessionEnded: it does not come, or in a version that is not ours.
        """
        packet = await self._receive()
        try:
            version = zds_pb2.ZdsHello.FromString(packet).version
        except DecodeError as error:
            raise SessionEnded(f"no hello: {error}") from error
        if version != zds_pb2.V1:
            raise SessionEnded(f"ztunnel speaks version {version} of ZDS, we speak {zds_pb2.V1}")

    async def add(self, uid: str, info: zds_pb2.WorkloadInfo, namespace: int) -> str:
        """Ask to serve a workload; returns an empty text, or why it is not served yet. Raises ``SessionEnded``."""
        request = zds_pb2.WorkloadRequest(add=zds_pb2.AddWorkload(uid=uid, workload_info=info))
        return await self._ask(request, namespace)

    async def remove(self, uid: str) -> str:
        """Ask to stop serving a workload. Raises ``SessionEnded``."""
        removal = zds_pb2.DelWorkload(uid=uid)
        request = zds_pb2.WorkloadRequest()
        getattr(request, "del").CopyFrom(removal)
        return await self._ask(request)

    async def snapshot_sent(self) -> str:
        """Say that all workloads have been told. Raises ``SessionEnded``."""
        return await self._ask(zds_pb2.WorkloadRequest(snapshot_sent=zds_pb2.SnapshotSent()))

    async def ended(self) -> None:
        """Wait until the other side is gone; nothing but acknowledgements may come from it."""
        while True:
            async with self._turn:
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
        """Hang up."""
        self._connection.close()

    async def _ask(self, request: zds_pb2.WorkloadRequest, descriptor: int | None = None) -> str:
        async with self._turn:
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
        if not await _readable(self._connection, _PATIENCE_S):
            raise SessionEnded(f"no answer within {_PATIENCE_S:.0f} s")
        try:
            packet = self._connection.recv(_PACKET)
        except OSError as error:
            raise SessionEnded(str(error)) from error
        if not packet:
            raise SessionEnded("hung up")
        return packet


async def _readable(connection: socket.socket, patience_s: float) -> bool:
    """Wait until something can be read; false when nothing comes in time."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(connection, ready.set)
    try:
        await asyncio.wait_for(ready.wait(), patience_s)
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(connection)
    return True
