"""The one table of the kinds that the control plane reads from Kubernetes.

A new kind is a line here, its model in ``meshapi.resources``, and what is derived from it. The informers, the metrics
of their events and the handling of invalid objects follow from this table; the chart's permissions, the definitions
and the bug report are checked against it (``tests/unit/controlplane/test_kinds.py``).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from controlplane.inputs import fail_closed
from meshapi.resources import (
    backend_policies,
    base,
    core,
    destination_rule,
    envoy_filter,
    extensions,
    gateway,
    gateway_routes,
    ingress,
    istio_gateway,
    networking,
    request_authentication,
    security,
    sidecar,
    telemetry,
    virtual_service,
)
from meshkit.kube import Json, Kind, kinds


@dataclass(frozen=True, slots=True)
class InputKind:
    """One kind of objects.

    Attributes:
        kind: as the API names it.
        model: what an object is read into.
        substitute: returns what stands in for an invalid object without a last good form; ``None``: nothing does.
        discovered: whether ``discoverySelectors`` of the mesh configuration apply.
    """

    kind: Kind
    model: type[base.Object]
    substitute: Callable[[Json], Any] | None = None
    discovered: bool = True

    @property
    def is_mesh_resource(self) -> bool:
        """Whether it is one of the mesh's own kinds, not one of Kubernetes': unknown fields of it are reported."""
        return self.kind.group.endswith("istio.io")


KINDS: Final = (
    InputKind(kinds.NODE, core.Node, discovered=False),
    InputKind(kinds.POD, core.Pod),
    InputKind(kinds.SERVICE, core.Service),
    InputKind(kinds.ENDPOINT_SLICE, core.EndpointSlice),
    InputKind(kinds.INGRESS_CLASS, ingress.IngressClass, discovered=False),
    InputKind(kinds.INGRESS, ingress.Ingress),
    InputKind(kinds.GATEWAY_CLASS, gateway.GatewayClass, discovered=False),
    InputKind(kinds.GATEWAY, gateway.Gateway),
    InputKind(kinds.LISTENER_SET, gateway.ListenerSet),
    InputKind(kinds.HTTP_ROUTE, gateway_routes.HTTPRoute),
    InputKind(kinds.GRPC_ROUTE, gateway_routes.GRPCRoute),
    InputKind(kinds.TCP_ROUTE, gateway_routes.TCPRoute),
    InputKind(kinds.TLS_ROUTE, gateway_routes.TLSRoute),
    InputKind(kinds.UDP_ROUTE, gateway_routes.UDPRoute),
    InputKind(kinds.BACKEND_TLS_POLICY, backend_policies.BackendTLSPolicy, fail_closed.backend_tls),
    InputKind(kinds.BACKEND_TRAFFIC_POLICY, backend_policies.XBackendTrafficPolicy),
    InputKind(kinds.REFERENCE_GRANT, gateway_routes.ReferenceGrant),
    InputKind(kinds.WORKLOAD_ENTRY, networking.WorkloadEntry),
    InputKind(kinds.SERVICE_ENTRY, networking.ServiceEntry),
    InputKind(kinds.VIRTUAL_SERVICE, virtual_service.VirtualService),
    InputKind(kinds.ISTIO_GATEWAY, istio_gateway.Gateway),
    InputKind(kinds.DESTINATION_RULE, destination_rule.DestinationRule),
    InputKind(kinds.SIDECAR, sidecar.Sidecar),
    InputKind(kinds.WORKLOAD_GROUP, sidecar.WorkloadGroup),
    InputKind(kinds.ENVOY_FILTER, envoy_filter.EnvoyFilter),
    InputKind(kinds.PROXY_CONFIG, extensions.ProxyConfig),
    InputKind(kinds.WASM_PLUGIN, extensions.WasmPlugin),
    InputKind(kinds.AUTHORIZATION_POLICY, security.AuthorizationPolicy, fail_closed.policy),
    InputKind(kinds.REQUEST_AUTHENTICATION, request_authentication.RequestAuthentication),
    InputKind(kinds.PEER_AUTHENTICATION, security.PeerAuthentication, fail_closed.peer),
    InputKind(kinds.TELEMETRY, telemetry.Telemetry),
)
