"""Patches of clusters."""

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import base_pb2
from envoy.extensions.transport_sockets.internal_upstream.v3 import internal_upstream_pb2

from controlplane.envoy import names
from controlplane.envoy.packing import packed
from controlplane.envoy.patches import merging
from controlplane.envoy.patches.patch import Match, Patch, Patching
from meshapi.errors import DataError
from meshapi.resources.envoy_filter import ApplyTo, Operation, PatchContext


def patched(cluster: cluster_pb2.Cluster, patching: Patching) -> cluster_pb2.Cluster | None:
    """Return a cluster with the patches applied; ``None``: it was removed.

    Args:
        cluster: is changed.
        patching: the patches.
    """
    name = cluster.name
    for patch in patching.of(ApplyTo.CLUSTER):
        if patch.operation is Operation.ADD or not _is_for(patch.match, name):
            continue
        if patch.value is None or patch.operation is Operation.REMOVE:
            patching.applied(patch)
            return None
        try:
            _merge(cluster, patch)
        except DataError as error:
            patching.failed(patch, f"cluster {name}: {error}")
            continue
        patching.applied(patch)
        if cluster.name != name:
            cluster.name = name
            patching.failed(patch, f"cluster {name} is found by its name, which cannot be changed")
    return cluster


def _is_for(match: Match, name: str) -> bool:
    other = PatchContext.SIDECAR_INBOUND if names.is_outbound(name) else PatchContext.SIDECAR_OUTBOUND
    if match.context is other:
        return False
    if match.cluster:
        return match.cluster == name
    return (
        match.port in {0, names.port_of(name)}
        and match.subset in {"", names.subset_of(name)}
        and match.service in {"", names.host_of(name)}
    )


def _merge(cluster: cluster_pb2.Cluster, patch: Patch) -> None:
    """Merge a patch into a cluster.

    The transport sockets of services' clusters are chosen by endpoint, and Envoy takes no other one beside these. So
    what is said of the only one is merged into those of the same name.
    """
    value = cluster_pb2.Cluster()
    value.CopyFrom(patch.value)
    if value.HasField("transport_socket") and cluster.transport_socket_matches:
        held = [one.transport_socket for one in cluster.transport_socket_matches]
        if not sum([_merge_socket(one, value.transport_socket) for one in held]):
            there = ", ".join(sorted({one.name for one in held}))
            raise DataError(f"has no transport socket {value.transport_socket.name} to merge into; it has {there}")
        value.ClearField("transport_socket")
    merging.merge(cluster, value, replaces_lists=patch.operation is Operation.MERGE_AND_REPLACE_LIST)


def _merge_socket(held: base_pb2.TransportSocket, value: base_pb2.TransportSocket) -> bool:
    """Merge into a transport socket of the same name, or into the one that is spoken inside of the tunnel."""
    if merging.is_like(held, value):
        merging.merge_configuration(held.typed_config, value.typed_config)
        return True
    tunnel = internal_upstream_pb2.InternalUpstreamTransport()
    if not held.typed_config.Is(tunnel.DESCRIPTOR):
        return False
    held.typed_config.Unpack(tunnel)
    if not _merge_socket(tunnel.transport_socket, value):
        return False
    held.typed_config.CopyFrom(packed(tunnel))
    return True
