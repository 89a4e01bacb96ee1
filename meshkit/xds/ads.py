"""The aggregated discovery service, to be added to a gRPC server: both variants, and debug requests on one of them."""

from collections.abc import AsyncIterator, Callable

import grpc
from envoy.service.discovery.v3 import discovery_pb2

from meshkit.log import logger
from meshkit.xds import credentials, methods
from meshkit.xds.admission import Admission
from meshkit.xds.delta import DeltaStream
from meshkit.xds.errors import Denied, Unauthenticated, Unserved
from meshkit.xds.peer import Observer, SilentObserver
from meshkit.xds.stream import View
from meshkit.xds.whole import WholeStream

_log = logger("xds.ads")

Answer = Callable[[str, discovery_pb2.DiscoveryRequest], discovery_pb2.DiscoveryResponse | None]
"""From a caller's name and its request to the response to a debug request, ``None`` for others; raises ``Denied``."""


class AggregatedDiscovery:
    """Serves discovery streams.

    Args:
        view: chooses what a client sees.
        authenticate: lets callers in.
        observer: sees what happens.
        answer: responds to debug requests, which come on the state-of-the-world variant.
    """

    def __init__(
        self,
        view: View,
        authenticate: credentials.Authenticate,
        observer: Observer | None = None,
        answer: Answer = lambda _, __: None,
    ) -> None:
        self._view = view
        self._authenticate = authenticate
        self._observer = observer or SilentObserver()
        self._answer = answer
        self._admission = Admission()

    async def DeltaAggregatedResources(
        self,
        request_iterator: AsyncIterator[discovery_pb2.DeltaDiscoveryRequest],
        context: grpc.aio.ServicerContext,
    ) -> None:
        """Serve one incremental stream."""
        identity = await self._caller(context)
        stream = DeltaStream(self._view, self._observer, identity, self._admission)
        await stream.run(request_iterator, context.write)

    async def StreamAggregatedResources(
        self,
        request_iterator: AsyncIterator[discovery_pb2.DiscoveryRequest],
        context: grpc.aio.ServicerContext,
    ) -> None:
        """Serve one state-of-the-world stream."""
        identity = await self._caller(context)
        stream = WholeStream(self._view, self._observer, identity, self._admission)
        try:
            await stream.run(self._subscriptions(stream, identity, request_iterator), context.write)
        except Denied as error:
            _log.warning("debug request refused", peer=context.peer(), reason=str(error))
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
        except Unserved as error:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, str(error))

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register with a server that has not been started."""
        methods.register(
            server,
            "envoy.service.discovery.v3.AggregatedDiscoveryService",
            whole=("StreamAggregatedResources", self.StreamAggregatedResources),
            delta=("DeltaAggregatedResources", self.DeltaAggregatedResources),
        )

    async def _subscriptions(
        self, stream: WholeStream, identity: str, requests: AsyncIterator[discovery_pb2.DiscoveryRequest]
    ) -> AsyncIterator[discovery_pb2.DiscoveryRequest]:
        """Respond to debug requests; yield the others."""
        async for request in requests:
            response = self._answer(identity, request)
            if response is None:
                yield request
            else:
                stream.reply(response)

    async def _caller(self, context: grpc.aio.ServicerContext) -> str:
        try:
            return await self._authenticate(credentials.metadata_of(context))
        except Unauthenticated as error:
            await credentials.refuse(context, error)
