"""The client's side of ZDS: which network namespaces the node agent wants served.

Packets on a SOCK_SEQPACKET Unix socket, one message each, at most 1,024 bytes; the namespace of an ``AddWorkload``
travels beside it as a descriptor. The conversation: our hello; then a snapshot, one workload at a time, each
acknowledged before the next comes; then changes. Source: istio/ztunnel, ``src/inpod/protocol.rs``.

While the node agent is away everything goes on as it is; with its next snapshot, workloads that are not in it go.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError

from meshapi.proto import zds_pb2
from meshkit.log import logger
from meshkit.tasks import Backoff
from ztunnel.workloads import Workloads

_log = logger("zds")

_PACKET: Final = 1024
_MAX_DESCRIPTORS: Final = 4


class ProtocolError(Exception):
    """The node agent sent an invalid message; the connection is closed."""


class ZdsClient:
    """Follows the node agent. Construct, then ``run`` as a task."""

    def __init__(
        self,
        path: Path,
        workloads: Workloads,
        backoff: Backoff | None = None,
        *,
        complete: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Make a client; ``complete`` is awaited after each snapshot, when all workloads have been added."""
        self._complete = complete
        self._path = path
        self._workloads = workloads
        self._backoff = backoff or Backoff(first_s=0.01, cap_s=0.5)  # on the same node: retrying costs nothing
        self.snapshot_received = False
        """Whether the node agent is connected and has sent its snapshot."""
        self._retired = False

    def retire(self) -> None:
        """Follow this connection to its end, but open no other: the node agent gives new workloads to the latest."""
        self._retired = True

    async def run(self) -> None:
        """Connect, follow, reconnect; until cancelled or retired."""
        while not self._retired:
            try:
                await self._session()
                reason = "closed by the node agent"
            except (OSError, ProtocolError, DecodeError) as error:
                reason = str(error)
            self.snapshot_received = False
            delay_s = self._backoff.next()
            _log.info(
                "node agent not connected, will try again",
                socket=self._path,
                reason=reason,
                retry_in_s=round(delay_s, 3),
            )
            await asyncio.sleep(delay_s)

    async def _session(self) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.setblocking(False)
            await loop.sock_connect(connection, str(self._path))
            hello = zds_pb2.ZdsHello(version=zds_pb2.V1)
            await loop.sock_sendall(connection, hello.SerializeToString())
            seen: set[str] = set()
            while True:
                packet, descriptors = await _receive(connection)
                if not packet:
                    return
                try:
                    error = await self._handle(packet, descriptors, seen)
                finally:
                    for descriptor in descriptors:
                        os.close(descriptor)
                answer = zds_pb2.WorkloadResponse(ack=zds_pb2.Ack(error=error))
                await loop.sock_sendall(connection, answer.SerializeToString())

    async def _handle(self, packet: bytes, descriptors: list[int], seen: set[str]) -> str:
        """Act on one message; return the text of the acknowledgement. Takes what it keeps out of ``descriptors``."""
        request = zds_pb2.WorkloadRequest.FromString(packet)
        kind = request.WhichOneof("payload")
        if kind == "add":
            if len(descriptors) != 1:
                raise ProtocolError(f"AddWorkload came with {len(descriptors)} descriptors, not one")
            if not request.add.uid or not request.add.HasField("workload_info"):
                raise ProtocolError("AddWorkload without uid or workload_info")
            seen.add(request.add.uid)
            return await self._workloads.add(request.add.uid, request.add.workload_info, descriptors.pop())
        if descriptors:
            raise ProtocolError(f"{kind} came with a descriptor")
        if kind == "keep" and not self.snapshot_received:
            if not self._workloads.keep(getattr(request, kind).uid):
                return f"workload {request.keep.uid} is not known"
            seen.add(request.keep.uid)
            return ""
        if kind == "del":
            self._workloads.remove(getattr(request, kind).uid)
            return ""
        if kind == "snapshot_sent" and not self.snapshot_received:
            self._workloads.retain(seen)
            if self._complete is not None:
                await self._complete()
            self.snapshot_received = True
            self._backoff.reset()
            _log.info("snapshot received", workloads=len(seen))
            return ""
        raise ProtocolError(f"unexpected message {kind}")


async def _receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    """Wait for one packet and the descriptors beside it; an empty packet is the end."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(connection, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(connection)
    packet, descriptors, flags, _ = socket.recv_fds(connection, _PACKET, _MAX_DESCRIPTORS)
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        for descriptor in descriptors:
            os.close(descriptor)
        raise ProtocolError(f"a packet was longer than {_PACKET} bytes or carried too many descriptors")
    return packet, descriptors
