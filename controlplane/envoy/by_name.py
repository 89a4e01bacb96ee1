"""Services whose endpoint is the name that a client sends (``DYNAMIC_DNS``): Envoy's dynamic forward proxy.

A client must not choose what it likes, else the waypoint would call any name and port for it. So:

1.  Names have to be the service's host, or below its wildcard: the routes have no other domain, and TLS of other names
    has no chain. Facts: Istio's ``listener_waypoint.go`` (``buildRouteVHostDomains``).
2.  The port is the service's, whatever a request says of one: name and port are handed on in filter state, which only
    the proxy writes.
3.  A name must not lead to the proxy's own pod or node (``resolved_addresses``).
"""

from typing import Final

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_components_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.clusters.dynamic_forward_proxy.v3 import cluster_pb2 as forward_cluster_pb2
from envoy.extensions.common.dynamic_forward_proxy.v3 import dns_cache_pb2
from envoy.extensions.filters.common.set_filter_state.v3 import value_pb2
from envoy.extensions.filters.http.dynamic_forward_proxy.v3 import dynamic_forward_proxy_pb2
from envoy.extensions.filters.http.header_to_metadata.v3 import header_to_metadata_pb2
from envoy.extensions.filters.http.set_filter_state.v3 import set_filter_state_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.filters.network.sni_dynamic_forward_proxy.v3 import sni_dynamic_forward_proxy_pb2

from controlplane.envoy import resolved_addresses
from controlplane.envoy.packing import filter_state, http_filter, packed, regex
from controlplane.routing.services import Port, Service

_METADATA: Final = "culvert.destination"
_NAME: Final = "name"
_WITHOUT_PORT: Final = "^([^:]+)(?::[0-9]*)?$"
"""The host of a request; what formats text for filter state cannot cut a port off."""
_HOST_STATE: Final = "envoy.upstream.dynamic_host"
_PORT_STATE: Final = "envoy.upstream.dynamic_port"
_State: Final = value_pb2.FilterStateValue


def set_cluster(cluster: cluster_pb2.Cluster, service: Service) -> None:
    """Make a cluster one of the names that clients send."""
    config = forward_cluster_pb2.ClusterConfig(dns_cache_config=_cache(service))
    cluster.cluster_type.name = "envoy.clusters.dynamic_forward_proxy"
    cluster.cluster_type.typed_config.CopyFrom(packed(config))
    cluster.lb_policy = cluster_pb2.Cluster.CLUSTER_PROVIDED


def of_requests(service: Service, port: Port) -> tuple[http_connection_manager_pb2.HttpFilter, ...]:
    """Return the filters that take the name from a request and resolve it."""
    cut = header_to_metadata_pb2.Config()
    rule = cut.request_rules.add(header=":authority")
    rule.on_header_present.metadata_namespace, rule.on_header_present.key = _METADATA, _NAME
    rule.on_header_present.regex_value_rewrite.pattern.CopyFrom(regex(_WITHOUT_PORT))
    rule.on_header_present.regex_value_rewrite.substitution = r"\1"
    name = f"%DYNAMIC_METADATA({_METADATA}:{_NAME})%"
    states = (
        filter_state(_State(object_key=_HOST_STATE), name),
        filter_state(_State(object_key=_PORT_STATE), str(port.target)),
    )
    noted = set_filter_state_pb2.Config(on_request_headers=states)
    config = dynamic_forward_proxy_pb2.FilterConfig(
        dns_cache_config=_cache(service), allow_dynamic_host_from_filter_state=True, save_upstream_address=True
    )
    return (
        http_filter("envoy.filters.http.header_to_metadata", cut),
        http_filter("envoy.filters.http.set_filter_state", noted),
        http_filter("envoy.filters.http.dynamic_forward_proxy", config),
        resolved_addresses.of_requests(),
    )


def of_connections(service: Service, port: Port) -> tuple[listener_components_pb2.Filter, ...]:
    """Return the filters that resolve the server name of TLS."""
    config = sni_dynamic_forward_proxy_pb2.FilterConfig(
        dns_cache_config=_cache(service), port_value=port.target, save_upstream_address=True
    )
    return (
        listener_components_pb2.Filter(
            name="envoy.filters.network.sni_dynamic_forward_proxy", typed_config=packed(config)
        ),
        resolved_addresses.of_connections(),
    )


def restrict(routes: route_pb2.RouteConfiguration, service: Service) -> None:
    """Let routes be for the names of a service only, with any port."""
    routes.ignore_port_in_host_matching = True
    for host in routes.virtual_hosts:
        del host.domains[:]
        host.domains.append(service.host)


def _cache(service: Service) -> dns_cache_pb2.DnsCacheConfig:
    """Return the names that are known; whatever uses one cache has to say the same of it."""
    return dns_cache_pb2.DnsCacheConfig(name=f"dns|{service.host}", dns_lookup_family=cluster_pb2.Cluster.ALL)
