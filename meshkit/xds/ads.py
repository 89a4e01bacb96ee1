"""The aggregated discovery service (delta only), to be added to a gRPC server."""

from collections.abc import AsyncIterator

import grpc
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2

from meshkit.xds import credentials
from meshkit.xds.errors import Unauthenticated
from meshkit.xds.source import ResourceSource
from meshkit.xds.stream import DeltaStream, Observer, SilentObserver


class AggregatedDiscovery(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):  # type: ignore[misc]  # generated, untyped
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
        await DeltaStream(self._source, self._observer, identity).run(request_iterator, context.write)

    async def StreamAggregatedResources(
        self,
        request_iterator: AsyncIterator[discovery_pb2.DiscoveryRequest],  # noqa: ARG002
        context: grpc.aio.ServicerContext,
    ) -> None:
        """Refuse the state-of-the-world variant: workload discovery is delta only."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "use DeltaAggregatedResources")

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register with a server that has not been started."""
        ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(self, server)
