"""Where names that clients choose may lead: not to the proxy's own pod or node.

A name that a client sends (``by_name``) can resolve to anything, as to loopback, where the proxy's own ports are, or to
the metadata service of a cloud. Such addresses are refused after the name was resolved and before it is called.
"""

from typing import Final

from envoy.config.core.v3 import address_pb2
from envoy.config.listener.v3 import listener_components_pb2
from envoy.config.rbac.v3 import rbac_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_rbac_pb2
from envoy.extensions.rbac.matchers.upstream_ip_port.v3 import upstream_ip_port_matcher_pb2

from controlplane.envoy.packing import http_filter, number, packed

_NAME: Final = "culvert.resolved_addresses"
_REFUSED: Final = (
    ("0.0.0.0", 8),  # noqa: S104  (this host)
    ("127.0.0.0", 8),  # loopback
    ("169.254.0.0", 16),  # link-local, and metadata services
    ("168.63.129.16", 32),  # of Azure's host
    ("224.0.0.0", 3),  # multicast and reserved
    ("::", 96),  # this host, loopback, and IPv4 in a form that is not used any more
    ("::ffff:0:0", 96),  # IPv4 in disguise
    ("fe80::", 10),
    ("fd00:ec2::254", 128),  # metadata of EC2
    ("ff00::", 8),
)
"""Address and length of a prefix."""


def of_requests() -> http_connection_manager_pb2.HttpFilter:
    """Return the filter that answers requests for such an address with 403; after the one that resolves names."""
    return http_filter(_NAME, http_rbac_pb2.RBAC(rules=_rules()))


def of_connections() -> listener_components_pb2.Filter:
    """Return the filter that closes connections to such an address; after the one that resolves names."""
    config = network_rbac_pb2.RBAC(rules=_rules(), stat_prefix=f"{_NAME}.")
    return listener_components_pb2.Filter(name=_NAME, typed_config=packed(config))


def _rules() -> rbac_pb2.RBAC:
    result = rbac_pb2.RBAC(action=rbac_pb2.RBAC.DENY)
    policy = result.policies["own-address"]
    policy.principals.add(any=True)
    for prefix, length in _REFUSED:
        matcher = policy.permissions.add().matcher
        matcher.name = "envoy.rbac.matchers.upstream_ip_port"
        block = address_pb2.CidrRange(address_prefix=prefix, prefix_len=number(length))
        matcher.typed_config.CopyFrom(packed(upstream_ip_port_matcher_pb2.UpstreamIpPortMatcher(upstream_ip=block)))
    return result
