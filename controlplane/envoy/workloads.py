"""Workloads that are called by their own addresses: two filter chains for all of them, and a cluster for each address.

Facts: Istio's ``listener_waypoint.go`` (chains ``direct-tcp`` and ``direct-http``) and ``cluster_waypoint.go``
(``encap``). There, the listener lists the addresses of all workloads, and one cluster leads to all of them. Here, the
chains take every address that is no service's, and go to the cluster that is named after the called address. So:

-   A workload that comes, goes or changes is one small cluster. The listener stays as it is: with a thousand pods and
    services it has megabytes, and each pod would send it again.
-   An address that has no cluster is refused. There is no list beside the clusters that could say something else.
-   A cluster knows its workload: whether there is a tunnel, and what metrics say of it.

The price is memory of Envoy's, 32 kB for each address (Envoy 1.40, one thread). With a thousand pods, one pod that
comes is 0.5 kB on the wire.
"""

from datetime import timedelta
from typing import Final

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.common.mutation_rules.v3 import mutation_rules_pb2
from envoy.config.core.v3 import extension_pb2
from envoy.config.listener.v3 import listener_components_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.common.set_filter_state.v3 import value_pb2
from envoy.extensions.filters.network.set_filter_state.v3 import set_filter_state_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from envoy.extensions.http.early_header_mutation.header_mutation.v3 import header_mutation_pb2

from controlplane.envoy import clusters, filter_chains, metrics, names, transport, virtual_hosts
from controlplane.envoy.filter_chains import Filters, Opening
from controlplane.envoy.packing import duration, extension, filter_state, internal_address, overwritten, packed
from controlplane.envoy.telemetry.reporting import Reports
from controlplane.routing.workloads import Workload
from meshapi.resources.destination_rule import ConnectionPool

Cluster: Final = cluster_pb2.Cluster
_State: Final = value_pb2.FilterStateValue
_CALLED: Final = "%DOWNSTREAM_LOCAL_ADDRESS%"
_CLUSTER: Final = names.workload("%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%")
_CONNECT_TIMEOUT: Final = timedelta(seconds=10)
_CLEANUP: Final = timedelta(seconds=60)
"""How often Envoy forgets the ports of an address without calls."""


def opening(filters: Filters, reports: Reports) -> Opening:
    """Return the chains.

    Args:
        filters: of policies for the waypoint.
        reports: what is reported of the traffic.
    """
    proxy = tcp_proxy_pb2.TcpProxy(stat_prefix=names.DIRECT_TCP, cluster=names.BLACK_HOLE)
    target = _value(names.LOCAL_ADDRESS_STATE, _CALLED, shared=_State.ONCE)
    chosen = _value(names.TCP_CLUSTER_STATE, _CLUSTER)
    return Opening(
        (),
        0,
        http=filter_chains.of_requests(
            names.DIRECT_HTTP,
            filters,
            reports,
            f"{names.DIRECT_HTTP}/*",
            first=[_state(target)],
            early=[_named_in_header()],
        ),
        tcp=filter_chains.of_connections(proxy, filters, reports, first=[_state(target, chosen)]),
    )


def routes() -> route_pb2.RouteConfiguration:
    """Return the routes of requests: all go to the cluster that the header names."""
    return virtual_hosts.of_workloads(names.DIRECT_HTTP, names.WORKLOAD_HEADER)


def cluster(workload: Workload) -> cluster_pb2.Cluster:
    """Return the cluster of a workload's address, for every port: through the tunnel if it has one, else directly."""
    result = Cluster(
        name=names.workload(workload.address),
        alt_stat_name=names.ENCAP,  # statistics of a thousand pods would cost more than the rest of their clusters
        connect_timeout=duration(_CONNECT_TIMEOUT),
    )
    if workload.has_tunnel:
        result.type = Cluster.STATIC
        result.load_assignment.cluster_name = result.name
        endpoint = result.load_assignment.endpoints.add().lb_endpoints.add().endpoint
        endpoint.address.CopyFrom(internal_address(names.CONNECT_ORIGINATE, workload.address))
        result.transport_socket.CopyFrom(transport.internal(transport.raw(), has_target=False))
    else:
        result.type = Cluster.ORIGINAL_DST
        result.lb_policy = Cluster.CLUSTER_PROVIDED
        result.cleanup_interval.CopyFrom(duration(_CLEANUP))
    clusters.set_no_limits(result)
    options = clusters.protocols(ConnectionPool(), None, http2=False)
    result.typed_extension_protocol_options[clusters.PROTOCOL_OPTIONS].CopyFrom(packed(options))
    described = dict(zip(metrics.DESCRIBED, workload.workload, strict=False))
    identity = workload.identity if workload.has_tunnel and workload.identity else metrics.UNKNOWN
    result.metadata.filter_metadata[names.TELEMETRY_METADATA].update({**described, "identity": identity})
    return result


def _named_in_header() -> extension_pb2.TypedExtensionConfig:
    """Return what writes the cluster into a header before the route is chosen; what a client has sent there is lost."""
    config = header_mutation_pb2.HeaderMutation()
    config.mutations.append(mutation_rules_pb2.HeaderMutation(append=overwritten(names.WORKLOAD_HEADER, _CLUSTER)))
    return extension("envoy.http.early_header_mutation.header_mutation", config)


def _state(*values: value_pb2.FilterStateValue) -> listener_components_pb2.Filter:
    """Return the filter that notes what the cluster, and the listener behind it, have to know of a connection."""
    config = set_filter_state_pb2.Config(on_new_connection=values)
    return listener_components_pb2.Filter(name="connect_authority", typed_config=packed(config))


def _value(key: str, text: str, *, shared: int = _State.NONE) -> value_pb2.FilterStateValue:
    return filter_state(_State(object_key=key, shared_with_upstream=shared), text)
