"""Relays discovery streams from a Unix socket to a server: messages as they are, with this process's credentials.

The relay keeps nothing, so a stream that breaks upstream ends downstream: the client says again what it holds, and
receives what has changed. A stream that finds no server waits for it, because its client's own backoff is long.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

import grpc

from meshkit.log import logger
from meshkit.tasks import Backoff
from meshkit.xds import credentials
from meshkit.xds.client import Connect, settled

_log = logger("xds.relay")
_SERVICE: Final = "envoy.service.discovery.v3.AggregatedDiscoveryService"
_METHODS: Final = ("StreamAggregatedResources", "DeltaAggregatedResources")
_CONNECT_TIMEOUT_S: Final = 5.0


class Relay:
    """A service to be added to a gRPC server.

    Args:
        connect: opens a channel to the server.
        metadata: gives the metadata of one call: the token.
        backoff: makes the delays between attempts to connect.
    """

    def __init__(
        self,
        connect: Connect,
        metadata: Callable[[], credentials.Metadata],
        backoff: Callable[[], Backoff] = lambda: Backoff(first_s=0.05, cap_s=5.0),
    ) -> None:
        self._connect = connect
        self._metadata = metadata
        self._backoff = backoff
        self.connected = False
        """Whether a stream is relayed now."""

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register with a server that has not been started."""
        handlers = {method: grpc.stream_stream_rpc_method_handler(self._handler(method)) for method in _METHODS}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))

    def _handler(self, method: str) -> Callable[[AsyncIterator[bytes], grpc.aio.ServicerContext], AsyncIterator[bytes]]:
        async def handle(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
            channel = await self._channel()
            try:
                call = channel.stream_stream(f"/{_SERVICE}/{method}")(requests, metadata=self._metadata())
                self.connected = True
                _log.info("discovery stream open", method=method)
                async for response in call:
                    yield response
                reason = "the server closed the stream"
            except OSError as error:
                reason = f"cannot read the token: {error}"
            except grpc.aio.AioRpcError as error:
                reason = f"{error.code().name}: {error.details()}"
            finally:
                self.connected = False
                await channel.close()
            _log.info("discovery stream ended", reason=reason)
            await context.abort(grpc.StatusCode.UNAVAILABLE, reason)

        return handle

    async def _channel(self) -> grpc.aio.Channel:
        """Return a connected channel, however long that takes."""
        backoff = self._backoff()
        while True:
            reason = ""
            channel = None
            try:
                channel = self._connect()
                async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                    if await settled(channel) is grpc.ChannelConnectivity.READY:
                        return channel
                reason = "no connection"
            except TimeoutError:
                reason = f"no connection within {_CONNECT_TIMEOUT_S:.0f} s"
            except OSError as error:
                reason = f"cannot read the trust root: {error}"
            except asyncio.CancelledError:
                if channel is not None:
                    await channel.close()
                raise
            if channel is not None:
                await channel.close()
            delay_s = backoff.next()
            _log.info("control plane not reached, will retry", reason=reason, retry_in_s=round(delay_s, 3))
            await asyncio.sleep(delay_s)
