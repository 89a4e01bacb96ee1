"""UDP servers of a scenario's pods."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, cast

from tests.scenarios.pods import Pod


class _Echo(asyncio.DatagramProtocol):
    """Sends back what comes, behind the pod's version."""

    def __init__(self, version: str) -> None:
        self._version = version
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        assert self._transport is not None
        self._transport.sendto(self._version.encode() + b" " + data, addr)


@contextlib.asynccontextmanager
async def serving(one: Pod, port: int) -> AsyncIterator[None]:
    """A pod's server of UDP."""
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: _Echo(one.version), local_addr=(one.addresses[0], port)
    )
    try:
        yield
    finally:
        transport.close()
