"""From a waypoint to the ``istio.workload.GatewayAddress`` by which workloads and services name it."""

from controlplane.ambient import ip
from controlplane.inputs.mesh import MeshContext
from controlplane.waypoints.waypoint import Waypoint
from meshapi import names
from meshapi.proto import workload_pb2


def translate(waypoint: Waypoint | None, mesh: MeshContext) -> workload_pb2.GatewayAddress | None:
    """Return where proxies find a waypoint: by the name of its service, which has all its pods, else by its address."""
    if waypoint is None:
        return None
    result = workload_pb2.GatewayAddress(hbone_mtls_port=names.HBONE_PORT)
    if waypoint.hostname:
        result.hostname.namespace = waypoint.key[0]
        result.hostname.hostname = waypoint.hostname
    else:
        result.address.network = mesh.network
        result.address.address = ip.packed(waypoint.address)
    return result
