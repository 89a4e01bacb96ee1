"""The aggregated discovery service, to be added to a gRPC server.

Resources are served on the delta variant only. The other variant answers requests of administrators' tools.
"""

from collections.abc import AsyncIterator, Callable

import grpc
from envoy.service.discovery.v3 import discovery_pb2

from meshkit.log import logger
from meshkit.xds import credentials, methods
from meshkit.xds.admission import Admission
from meshkit.xds.errors import Denied, Unauthenticated
from meshkit.xds.source import ResourceSource
from meshkit.xds.stream import DeltaStream, Observer, SilentObserver

_log = logger("xds.ads")

Answer = Callable[[str, discovery_pb2.DiscoveryRequest], discovery_pb2.DiscoveryResponse | None]
"""From a caller's name and its question to the answer, ``None`` for no question; raises ``Denied``."""


class AggregatedDiscovery:
    """Serves every type of ``source`` to callers that ``authenticate`` lets in, and answers their questions."""

    def __init__(
        self,
        source: ResourceSource,
        authenticate: credentials.Authenticate,
        observer: Observer | None = None,
        answer: Answer = lambda _, __: None,
    ) -> None:
        self._source = source
        self._authenticate = authenticate
        self._observer = observer or SilentObserver()
        self._answer = answer
        self._admission = Admission()

    async def DeltaAggregatedResources(
        self,
        request_iterator: AsyncIterator[discovery_pb2.DeltaDiscoveryRequest],
        context: grpc.aio.ServicerContext,
    ) -> None:
        """Serve one stream."""
        identity = await self._caller(context)
        stream = DeltaStream(self._source, self._observer, identity, self._admission)
        await stream.run(request_iterator, context.write)

    async def StreamAggregatedResources(
        self,
        request_iterator: AsyncIterator[discovery_pb2.DiscoveryRequest],
        context: grpc.aio.ServicerContext,
    ) -> None:
        """Answer questions, each once: nothing is subscribed to here."""
        identity = await self._caller(context)
        async for request in request_iterator:
            try:
                answer = self._answer(identity, request)
            except Denied as error:
                _log.warning("question refused", peer=context.peer(), reason=str(error))
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
            if answer is None:
                await context.abort(grpc.StatusCode.UNIMPLEMENTED, "use DeltaAggregatedResources")
            await context.write(answer)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register with a server that has not been started."""
        methods.register(
            server,
            "envoy.service.discovery.v3.AggregatedDiscoveryService",
            whole=("StreamAggregatedResources", self.StreamAggregatedResources),
            delta=("DeltaAggregatedResources", self.DeltaAggregatedResources),
        )

    async def _caller(self, context: grpc.aio.ServicerContext) -> str:
        try:
            return await self._authenticate(credentials.metadata_of(context))
        except Unauthenticated as error:
            await credentials.refuse(context, error)
