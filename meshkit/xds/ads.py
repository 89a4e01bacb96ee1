"""The aggregated discovery service (delta only), to be added to a gRPC server."""

from collections.abc import AsyncIterator

import grpc
from envoy.service.discovery.v3 import discovery_pb2

from meshkit.xds import credentials, methods
from meshkit.xds.admission import Admission
from meshkit.xds.errors import Unauthenticated
from meshkit.xds.source import ResourceSource
from meshkit.xds.stream import DeltaStream, Observer, SilentObserver


class AggregatedDiscovery:
    """Serves every type of ``source`` to callers that ``authenticate`` lets in."""

    def __init__(
        self,
        source: ResourceSource,
        authenticate: credentials.Authenticate,
        observer: Observer | None = None,
    ) -> None:
        self._source = source
        self._authenticate = authenticate
        self._observer = observer or SilentObserver()
        self._admission = Admission()

    async def DeltaAggregatedResources(
        self,
        request_iterator: AsyncIterator[discovery_pb2.DeltaDiscoveryRequest],
        context: grpc.aio.ServicerContext,
    ) -> None:
        """Serve one stream."""
        try:
            identity = await self._authenticate(credentials.metadata_of(context))
        except Unauthenticated as error:
            await credentials.refuse(context, error)
        stream = DeltaStream(self._source, self._observer, identity, self._admission)
        await stream.run(request_iterator, context.write)

    async def StreamAggregatedResources(
        self,
        request_iterator: AsyncIterator[discovery_pb2.DiscoveryRequest],  # noqa: ARG002
        context: grpc.aio.ServicerContext,
    ) -> None:
        """Refuse the state-of-the-world variant: workload discovery is delta only."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "use DeltaAggregatedResources")

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register with a server that has not been started."""
        methods.register(
            server,
            "envoy.service.discovery.v3.AggregatedDiscoveryService",
            whole=("StreamAggregatedResources", self.StreamAggregatedResources),
            delta=("DeltaAggregatedResources", self.DeltaAggregatedResources),
        )
