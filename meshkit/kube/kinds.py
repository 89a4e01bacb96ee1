"""Kinds of Kubernetes objects and where the API serves them."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind as the API serves it.

    Attributes:
        group: API group; empty for the core group.
        version: version that is read and written.
        name: the kind's name, as ``Pod``.
        plural: the name in paths, as ``pods``.
        namespaced: whether its objects live in namespaces.
        title: tells it from kinds of other groups with the same name; its name where there are none.
    """

    group: str
    version: str
    name: str
    plural: str
    namespaced: bool = True
    title: str = ""

    def __post_init__(self) -> None:
        if not self.title:
            object.__setattr__(self, "title", self.name)

    @property
    def plural_title(self) -> str:
        """Its plural, with the group where kinds of other groups have its name: ``gateways.networking.istio.io``."""
        return self.plural if self.title == self.name else f"{self.plural}.{self.group}"

    @property
    def api_version(self) -> str:
        """The value of ``apiVersion``."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """Return the path of the collection, or of one object; ``namespace=None`` means all namespaces."""
        parts = [f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"]
        if self.namespaced and namespace is not None:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        parts += [part for part in (name, subresource) if part is not None]
        return "/".join(parts)


POD: Final = Kind("", "v1", "Pod", "pods")
SERVICE: Final = Kind("", "v1", "Service", "services")
NAMESPACE: Final = Kind("", "v1", "Namespace", "namespaces", namespaced=False)
NODE: Final = Kind("", "v1", "Node", "nodes", namespaced=False)
CONFIG_MAP: Final = Kind("", "v1", "ConfigMap", "configmaps")
SECRET: Final = Kind("", "v1", "Secret", "secrets")
DEPLOYMENT: Final = Kind("apps", "v1", "Deployment", "deployments")
HORIZONTAL_POD_AUTOSCALER: Final = Kind("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
POD_DISRUPTION_BUDGET: Final = Kind("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")
SERVICE_ACCOUNT: Final = Kind("", "v1", "ServiceAccount", "serviceaccounts")
DAEMON_SET: Final = Kind("apps", "v1", "DaemonSet", "daemonsets")
ENDPOINT_SLICE: Final = Kind("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")
LEASE: Final = Kind("coordination.k8s.io", "v1", "Lease", "leases")
INGRESS: Final = Kind("networking.k8s.io", "v1", "Ingress", "ingresses")
INGRESS_CLASS: Final = Kind("networking.k8s.io", "v1", "IngressClass", "ingressclasses", namespaced=False)
NETWORK_POLICY: Final = Kind("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies")
EVENT: Final = Kind("", "v1", "Event", "events")
EVENT_V1: Final = Kind("events.k8s.io", "v1", "Event", "events")
"""The same objects in the API for those who write them."""
TOKEN_REVIEW: Final = Kind("authentication.k8s.io", "v1", "TokenReview", "tokenreviews", namespaced=False)
CUSTOM_RESOURCE_DEFINITION: Final = Kind(
    "apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", namespaced=False
)
MUTATING_WEBHOOK_CONFIGURATION: Final = Kind(
    "admissionregistration.k8s.io",
    "v1",
    "MutatingWebhookConfiguration",
    "mutatingwebhookconfigurations",
    namespaced=False,
)
VALIDATING_WEBHOOK_CONFIGURATION: Final = Kind(
    "admissionregistration.k8s.io",
    "v1",
    "ValidatingWebhookConfiguration",
    "validatingwebhookconfigurations",
    namespaced=False,
)
SERVICE_ENTRY: Final = Kind("networking.istio.io", "v1", "ServiceEntry", "serviceentries")
WORKLOAD_ENTRY: Final = Kind("networking.istio.io", "v1", "WorkloadEntry", "workloadentries")
VIRTUAL_SERVICE: Final = Kind("networking.istio.io", "v1", "VirtualService", "virtualservices")
DESTINATION_RULE: Final = Kind("networking.istio.io", "v1", "DestinationRule", "destinationrules")
ISTIO_GATEWAY: Final = Kind("networking.istio.io", "v1", "Gateway", "gateways", title="Gateway.networking.istio.io")
"""Not the Gateway of the Gateway API."""
SIDECAR: Final = Kind("networking.istio.io", "v1", "Sidecar", "sidecars")
WORKLOAD_GROUP: Final = Kind("networking.istio.io", "v1", "WorkloadGroup", "workloadgroups")
ENVOY_FILTER: Final = Kind("networking.istio.io", "v1alpha3", "EnvoyFilter", "envoyfilters")
PROXY_CONFIG: Final = Kind("networking.istio.io", "v1beta1", "ProxyConfig", "proxyconfigs")
WASM_PLUGIN: Final = Kind("extensions.istio.io", "v1alpha1", "WasmPlugin", "wasmplugins")
AUTHORIZATION_POLICY: Final = Kind("security.istio.io", "v1", "AuthorizationPolicy", "authorizationpolicies")
REQUEST_AUTHENTICATION: Final = Kind("security.istio.io", "v1", "RequestAuthentication", "requestauthentications")
PEER_AUTHENTICATION: Final = Kind("security.istio.io", "v1", "PeerAuthentication", "peerauthentications")
TELEMETRY: Final = Kind("telemetry.istio.io", "v1", "Telemetry", "telemetries")
GATEWAY: Final = Kind("gateway.networking.k8s.io", "v1", "Gateway", "gateways")
HTTP_ROUTE: Final = Kind("gateway.networking.k8s.io", "v1", "HTTPRoute", "httproutes")
GRPC_ROUTE: Final = Kind("gateway.networking.k8s.io", "v1", "GRPCRoute", "grpcroutes")
TCP_ROUTE: Final = Kind("gateway.networking.k8s.io", "v1", "TCPRoute", "tcproutes")
TLS_ROUTE: Final = Kind("gateway.networking.k8s.io", "v1", "TLSRoute", "tlsroutes")
BACKEND_TLS_POLICY: Final = Kind("gateway.networking.k8s.io", "v1", "BackendTLSPolicy", "backendtlspolicies")
BACKEND_TRAFFIC_POLICY: Final = Kind(
    "gateway.networking.x-k8s.io", "v1alpha1", "XBackendTrafficPolicy", "xbackendtrafficpolicies"
)
UDP_ROUTE: Final = Kind("gateway.networking.k8s.io", "v1", "UDPRoute", "udproutes")
LISTENER_SET: Final = Kind("gateway.networking.k8s.io", "v1", "ListenerSet", "listenersets")
REFERENCE_GRANT: Final = Kind("gateway.networking.k8s.io", "v1beta1", "ReferenceGrant", "referencegrants")
GATEWAY_CLASS: Final = Kind("gateway.networking.k8s.io", "v1", "GatewayClass", "gatewayclasses", namespaced=False)
