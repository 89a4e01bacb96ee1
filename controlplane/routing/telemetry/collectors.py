"""Services that telemetry is sent to."""

from controlplane.routing.services import Service
from meshapi.mesh_config.log_providers import Collector


def fault(collector: Collector, service: Service | None) -> str | None:
    """Return why nothing can be sent to a collector; ``None``: something can.

    Args:
        collector: as the mesh configuration has it.
        service: the service with its host name; ``None``: there is none.
    """
    if service is None:
        return f"the mesh has no service {collector.host}; write its complete name, or a ServiceEntry for it"
    port = service.port(collector.port)
    if port is None:
        return f"service {collector.host} has no port {collector.port}"
    if collector.is_grpc and not port.protocol.is_http2:
        return f"port {collector.port} of {collector.host} is not declared to speak gRPC; name it grpc-..."
    return None
