"""From pods and endpoint slices to ``istio.workload.Workload``. Facts: Istio's ``ambient/workloads.go``."""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from controlplane.ambient import ip
from controlplane.ambient.ports import pod_ports, slice_ports
from controlplane.inputs.mesh import MeshContext
from meshapi import names
from meshapi.analysis import canonical
from meshapi.proto import workload_pb2
from meshapi.resources.core import EndpointSlice, Node, Pod, Service

_TEMPLATE_HASH_LABEL: Final = "pod-template-hash"
_CRON_JOB: Final = re.compile(r"^(.+)-\d{8,10}$")
"""The controller appends the scheduled time in minutes (older releases: seconds) to the name of each job."""


def pod_uid(pod: Pod, mesh: MeshContext) -> str:
    """Return the resource name of a pod's workload."""
    return f"{mesh.cluster_id}//Pod/{pod.metadata.namespace}/{pod.metadata.name}"


def translate_pod(
    pod: Pod,
    mesh: MeshContext,
    *,
    services: Iterable[Service],
    node: Node | None,
    policies: Sequence[str],
    entries: Iterable[tuple[str, workload_pb2.PortList]] = (),
    waypoint: workload_pb2.GatewayAddress | None = None,
    registry_only: bool = False,
) -> workload_pb2.Workload | None:
    """Return the workload of a pod; ``None`` for one that has ended or has no address yet.

    Args:
        pod: the pod.
        mesh: the mesh.
        services: those that select the pod.
        node: the pod's node, for its place.
        policies: names of the policies that select the pod.
        entries: hosts of ServiceEntries that select the pod, by resource name, and the ports by which they reach it.
        waypoint: that connections to its own address go through.
        registry_only: whether the pod may reach only what the registry knows.
    """
    if pod.is_terminal or not pod.addresses:
        return None
    name = workload_name(pod)
    labels = pod.metadata.labels
    return workload_pb2.Workload(
        uid=pod_uid(pod, mesh),
        name=pod.metadata.name,
        namespace=pod.metadata.namespace,
        addresses=[ip.packed(address) for address in pod.addresses],
        network=labels.get(names.NETWORK_LABEL, mesh.network),
        tunnel_protocol=workload_pb2.HBONE if tunnels(pod) else workload_pb2.NONE,
        native_tunnel=_has_native_tunnel(pod),
        trust_domain=mesh.wire_trust_domain,
        service_account=pod.spec.service_account_name,
        node=pod.spec.node_name,
        canonical_name=canonical.name(labels, name),
        canonical_revision=canonical.revision(labels),
        workload_type=workload_pb2.POD,
        workload_name=name,
        services={**dict(entries), **{mesh.service_name(service): pod_ports(service, pod) for service in services}},
        authorization_policies=policies,
        status=workload_pb2.HEALTHY if pod.is_ready else workload_pb2.UNHEALTHY,
        cluster_id=mesh.cluster_id,
        locality=locality_of(node),
        network_mode=workload_pb2.HOST_NETWORK if pod.spec.host_network else workload_pb2.STANDARD,
        waypoint=waypoint,
        extensions=[workload_pb2.Extension(name=names.EGRESS_EXTENSION)] if registry_only else (),
    )


def translate_slice(endpoints: EndpointSlice, service: Service, mesh: MeshContext) -> list[workload_pb2.Workload]:
    """Return workloads for the endpoints that are no pods, such as the API server behind ``kubernetes``."""
    if endpoints.address_type not in {"IPv4", "IPv6"}:
        return []
    namespace, name = endpoints.key
    ports = slice_ports(service, endpoints)
    result = {}
    for endpoint in endpoints.endpoints:
        if endpoint.target_ref is not None and endpoint.target_ref.kind == "Pod":
            continue
        for address in endpoint.addresses:
            healthy = endpoint.conditions.ready
            result[address] = workload_pb2.Workload(
                uid=f"{mesh.cluster_id}/discovery.k8s.io/EndpointSlice/{namespace}/{name}/{address}",
                name=name,
                namespace=namespace,
                addresses=[ip.packed(address)],
                network=mesh.network,
                trust_domain=mesh.wire_trust_domain,
                workload_type=workload_pb2.POD,
                workload_name=name,
                canonical_name=name,
                canonical_revision="latest",
                services={mesh.service_name(service): ports},
                status=workload_pb2.HEALTHY if healthy else workload_pb2.UNHEALTHY,
                cluster_id=mesh.cluster_id,
                # Its address may be a node's, so it must never be taken for a workload by address.
                network_mode=workload_pb2.HOST_NETWORK,
            )
    return list(result.values())


def workload_name(pod: Pod) -> str:
    """Return the name of what made the pod: deployment, cron job, or other controller; its own if nothing did."""
    owner = next((item for item in pod.metadata.owner_references if item.controller), None)
    if owner is None:
        return pod.metadata.name
    suffix = "-" + pod.metadata.labels.get(_TEMPLATE_HASH_LABEL, "")
    if owner.kind == "ReplicaSet" and len(suffix) > 1 and owner.name.endswith(suffix):
        return owner.name.removesuffix(suffix)
    scheduled = _CRON_JOB.match(owner.name) if owner.kind == "Job" else None
    return scheduled.group(1) if scheduled else owner.name


def tunnels(pod: Pod) -> bool:
    """Return whether a pod is reached over HBONE: it is captured, or speaks HBONE itself."""
    captured = pod.metadata.annotations.get(names.REDIRECTION_ANNOTATION) == names.REDIRECTION_ENABLED
    return captured or _has_native_tunnel(pod)


def _has_native_tunnel(pod: Pod) -> bool:
    return pod.metadata.labels.get(names.TUNNEL_LABEL) == names.TUNNEL_LABEL_HTTP


def locality_of(node: Node | None) -> workload_pb2.Locality | None:
    """Return where a node is; ``None`` if nothing is known of it."""
    if node is None:
        return None
    labels = node.metadata.labels
    place = workload_pb2.Locality(
        region=labels.get(names.REGION_LABEL, ""),
        zone=labels.get(names.ZONE_LABEL, ""),
        subzone=labels.get(names.SUBZONE_LABEL, ""),
    )
    return place if place.ByteSize() else None
