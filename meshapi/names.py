"""Every label, annotation, port, mark, path and type URL that two parts must agree on.

Rule: such a value is written here once and imported. The engine's copy (``engine/crates/core/src/names.rs``) is
compared with this file by ``tests/unit/test_names.py``. Values follow Istio where a user or a peer can see them.
"""

from typing import Final

# --- Enrolment: labels and annotations on pods and namespaces -------------------------------------------------------
DATAPLANE_MODE_LABEL: Final = "istio.io/dataplane-mode"
DATAPLANE_MODE_AMBIENT: Final = "ambient"
DATAPLANE_MODE_NONE: Final = "none"
INJECTION_LABEL: Final = "istio-injection"
"""Of namespaces whose pods get a sidecar in Istio, with the value ``enabled``."""
INJECT_LABEL: Final = "sidecar.istio.io/inject"
"""Of pods, and as an annotation: whether they get a sidecar in Istio; its namespace's label where it is not given."""
INJECT_TEMPLATES: Final = "inject.istio.io/templates"
"""Of pods, as an annotation or a label: what is injected, separated by commas; ``gateway`` or ``sidecar``."""
REDIRECTION_ANNOTATION: Final = "ambient.istio.io/redirection"
REDIRECTION_ENABLED: Final = "enabled"
SIDECAR_STATUS_ANNOTATION: Final = "sidecar.istio.io/status"
BYPASS_INBOUND_ANNOTATION: Final = "ambient.istio.io/bypass-inbound-capture"
DNS_CAPTURE_ANNOTATION: Final = "ambient.istio.io/dns-capture"
REROUTE_INTERFACES_ANNOTATION: Final = "istio.io/reroute-virtual-interfaces"
INCLUDE_INBOUND_PORTS_ANNOTATION: Final = "traffic.sidecar.istio.io/includeInboundPorts"
EXCLUDE_INBOUND_PORTS_ANNOTATION: Final = "traffic.sidecar.istio.io/excludeInboundPorts"
INCLUDE_OUTBOUND_PORTS_ANNOTATION: Final = "traffic.sidecar.istio.io/includeOutboundPorts"
EXCLUDE_OUTBOUND_PORTS_ANNOTATION: Final = "traffic.sidecar.istio.io/excludeOutboundPorts"
INCLUDE_OUTBOUND_RANGES_ANNOTATION: Final = "traffic.sidecar.istio.io/includeOutboundIPRanges"
EXCLUDE_OUTBOUND_RANGES_ANNOTATION: Final = "traffic.sidecar.istio.io/excludeOutboundIPRanges"
EXCLUDE_INTERFACES_ANNOTATION: Final = "traffic.sidecar.istio.io/excludeInterfaces"
TUNNEL_ANNOTATION: Final = "culvert.io/tunnel"
"""Of pods, with the value ``TUNNEL_ALWAYS``: none of their connections is direct."""
TUNNEL_ALWAYS: Final = "always"
EGRESS_LABEL: Final = "culvert.io/egress"
"""Of namespaces and pods: what pods may reach, ``EGRESS_REGISTRY_ONLY`` or ``EGRESS_ALLOW_ANY``. Others count as the
first. A pod's own label can forbid what its namespace allows, and not the reverse."""
EGRESS_REGISTRY_ONLY: Final = "registry-only"
EGRESS_ALLOW_ANY: Final = "allow-any"
EGRESS_EXTENSION: Final = "culvert.io/egress-registry-only"
"""Name of the extension that marks such a workload in discovery; it has no content."""
TUNNEL_LABEL: Final = "networking.istio.io/tunnel"
TUNNEL_LABEL_HTTP: Final = "http"

# --- Workload metadata labels ---------------------------------------------------------------------------------------
CANONICAL_NAME_LABEL: Final = "service.istio.io/canonical-name"
CANONICAL_REVISION_LABEL: Final = "service.istio.io/canonical-revision"
APP_NAME_LABEL: Final = "app.kubernetes.io/name"
APP_LABEL: Final = "app"
APP_VERSION_LABEL: Final = "app.kubernetes.io/version"
VERSION_LABEL: Final = "version"
NETWORK_LABEL: Final = "topology.istio.io/network"
REGION_LABEL: Final = "topology.kubernetes.io/region"
ZONE_LABEL: Final = "topology.kubernetes.io/zone"
SUBZONE_LABEL: Final = "topology.istio.io/subzone"
HOSTNAME_LABEL: Final = "kubernetes.io/hostname"
AUTO_ALLOCATE_LABEL: Final = "networking.istio.io/enable-autoallocate-ip"
DRY_RUN_ANNOTATION: Final = "istio.io/dry-run"

# --- Gateway API and waypoints: labels and annotations ---------------------------------------------------------------
USE_WAYPOINT_LABEL: Final = "istio.io/use-waypoint"
USE_WAYPOINT_NONE: Final = "none"
USE_WAYPOINT_NAMESPACE_LABEL: Final = "istio.io/use-waypoint-namespace"
WAYPOINT_FOR_LABEL: Final = "istio.io/waypoint-for"
INGRESS_USE_WAYPOINT_LABEL: Final = "istio.io/ingress-use-waypoint"
SERVICE_NAME_LABEL: Final = "kubernetes.io/service-name"
"""Of an EndpointSlice: its service."""
SLICE_MANAGER_LABEL: Final = "endpointslice.kubernetes.io/managed-by"
"""Of an EndpointSlice: who writes it."""
SLICE_MANAGER: Final = "endpointslice-controller.k8s.io"
"""Kubernetes itself, which lists the pods that a service selects."""
GATEWAY_NAME_LABEL: Final = "gateway.networking.k8s.io/gateway-name"
"""On everything that belongs to a Gateway, its pods too."""
GATEWAY_CLASS_LABEL: Final = "gateway.networking.k8s.io/gateway-class-name"
GATEWAY_MANAGED_LABEL: Final = "gateway.istio.io/managed"
GATEWAY_SERVICE_TYPE_ANNOTATION: Final = "networking.istio.io/service-type"
GATEWAY_CLASS_DEFAULTS_LABEL: Final = "gateway.istio.io/defaults-for-class"
"""On a config map in the root namespace: what all Gateways of a class are patched with."""
GATEWAY_NAME_ANNOTATION: Final = "gateway.istio.io/name-override"
GATEWAY_SERVICE_ACCOUNT_ANNOTATION: Final = "gateway.istio.io/service-account"
GATEWAY_CONTROLLER_VERSION_ANNOTATION: Final = "gateway.istio.io/controller-version"
PROXY_CONFIG_ANNOTATION: Final = "proxy.istio.io/config"
"""On pods: settings of their proxy, as YAML."""
AUTOMATIC_WAYPOINT: Final = "waypoint-automatic"
"""Name of the waypoint that the control plane makes where services of a namespace need one and name none."""
AUTOMATIC_WAYPOINT_LABEL: Final = "culvert.io/automatic"
"""On such a waypoint's Gateway; without it, the Gateway is a user's and is left alone."""
UNNEEDED_SINCE_ANNOTATION: Final = "culvert.io/unneeded-since"
"""On such a Gateway: since when no service has needed it, RFC 3339."""
WAYPOINT_CLASS: Final = "istio-waypoint"
WAYPOINT_CONTROLLER: Final = "istio.io/mesh-controller"
WAYPOINT_MANAGED: Final = "istio.io-mesh-controller"
"""Value of ``GATEWAY_MANAGED_LABEL`` on what belongs to a waypoint."""
GATEWAY_CLASS: Final = "istio"
GATEWAY_CONTROLLER: Final = "istio.io/gateway-controller"
GATEWAY_MANAGED: Final = "istio.io-gateway-controller"
"""Value of ``GATEWAY_MANAGED_LABEL`` on what belongs to a gateway at the edge."""
ROUTE_CONTROLLERS: Final = frozenset({WAYPOINT_CONTROLLER, GATEWAY_CONTROLLER})
"""What the control plane calls itself in the statuses of routes and of policies for backends."""
MANAGED_PROXIES: Final = frozenset({WAYPOINT_MANAGED, GATEWAY_MANAGED})
REMOTE_GATEWAY_CLASS: Final = "istio-remote"
REMOTE_GATEWAY_CONTROLLER: Final = "istio.io/unmanaged-gateway"
ISTIO_GATEWAY_NAME_LABEL: Final = "istio.io/gateway-name"
"""The older form of ``GATEWAY_NAME_LABEL``."""
GATEWAY_SECRET: Final = "kubernetes-gateway://"
"""Prefix of SDS names of certificates for a gateway's listeners, as ``kubernetes-gateway://NAMESPACE/SECRET``."""
GATEWAY_CLIENT_ROOTS: Final = "-cacert"
"""Suffix of SDS names of the roots that certificates of a gateway's clients are checked against."""

# --- Installation defaults ------------------------------------------------------------------------------------------
DEFAULT_NAMESPACE: Final = "istio-system"
"""Where Culvert is installed, and the default root namespace."""
DEFAULT_TRUST_DOMAIN: Final = "cluster.local"
DEFAULT_CLUSTER_ID: Final = "Kubernetes"
DEFAULT_CLUSTER_DOMAIN: Final = "cluster.local"
ROOT_CERT_CONFIGMAP: Final = "istio-ca-root-cert"
ROOT_CERT_KEY: Final = "root-cert.pem"
CRL_CONFIGMAP: Final = "istio-ca-crl"
CRL_KEY: Final = "ca-crl.pem"
"""Of that config map, and of the secret ``cacerts``."""
MESH_CONFIGMAP: Final = "istio"
MESH_CONFIG_KEY: Final = "mesh"
REJECTIONS_CONFIGMAP: Final = "culvert-rejections"
"""What proxies of each replica refuse."""
CACERTS_SECRET: Final = "cacerts"
CA_SECRET: Final = "istio-ca-secret"
CONTROL_PLANE_SERVICE: Final = "istiod"
VALIDATOR_PREFIX: Final = "istio-validator-"
"""Of the name of the webhook's configuration, before the control plane's namespace."""
INJECTOR: Final = "istio-sidecar-injector"
"""Name of the configuration of the webhook for pods; in another namespace than the default one, this follows it."""
CONTROL_PLANE_SERVICE_ACCOUNT: Final = "istiod"
CONTROL_PLANE_LEASE: Final = "culvert-control-plane"
"""The Lease whose holder is the one control plane that writes to Kubernetes."""
ZTUNNEL_SERVICE_ACCOUNT: Final = "ztunnel"
ZTUNNEL_DRAINING: Final = "ztunnel-draining"
"""``app`` label of a ztunnel pod that terminates and still carries connections: no longer its DaemonSet's."""
NODE_AGENT_DAEMON_SET: Final = "istio-cni-node"
"""Name of the DaemonSet and ``k8s-app`` label of its pods, as ``istioctl`` and monitoring rules look for it."""
NODE_AGENT_SERVICE_ACCOUNT: Final = "istio-cni"
NODE_AGENT_CONFIGMAP: Final = "istio-cni-config"
TOKEN_AUDIENCE: Final = "istio-ca"
FIELD_MANAGER: Final = "culvert"

# --- Ports (TCP unless said) ----------------------------------------------------------------------------------------
OUTBOUND_PORT: Final = 15001
INBOUND_PLAINTEXT_PORT: Final = 15006
HBONE_PORT: Final = 15008
CAPTURE_PORTS: Final = frozenset({OUTBOUND_PORT, INBOUND_PLAINTEXT_PORT, HBONE_PORT})
"""Ports on which ztunnel listens in every captured pod."""
DNS_PORT: Final = 15053
"""DNS inside a captured pod, UDP and TCP, on loopback; only where DNS is captured."""
TUNNEL_PORTS: Final = CAPTURE_PORTS | {DNS_PORT}
REDIRECT_PORTS: Final = TUNNEL_PORTS - {HBONE_PORT}
"""Ports to which rules redirect; peers call ``HBONE_PORT`` itself."""
"""All ports of the tunnel inside a pod: a connection to one of them from there would be a loop."""
ZTUNNEL_ADMIN_PORT: Final = 15000
METRICS_PORT: Final = 15020
READINESS_PORT: Final = 15021
NODE_AGENT_HEALTH_PORT: Final = 8000
NODE_AGENT_METRICS_PORT: Final = 15014
CONTROL_PLANE_XDS_PORT: Final = 15012
"""xDS and certificate authority, over TLS."""
CONTROL_PLANE_METRICS_PORT: Final = 15014
CONTROL_PLANE_WEBHOOK_PORT: Final = 15017
CONTROL_PLANE_HEALTH_PORT: Final = 8080
CONTROL_PLANE_ADMIN_PORT: Final = 9876
"""ControlZ's port at Istio; here the control plane's debug endpoint, on localhost only."""

# --- Marks, route tables and addresses inside a pod -----------------------------------------------------------------
TUNNEL_MARK: Final = 0x539
"""Set by ztunnel on every socket that it opens in a pod (1337)."""
TUNNEL_MARK_MASK: Final = 0xFFF
REPLY_CONNMARK: Final = 0x111
"""Connection mark of connections that ztunnel opened towards the application under the client's address."""
REPLY_CONNMARK_MASK: Final = 0xFFF
PASSED_MARK: Final = 0x1000
"""Set by the capture rules on what leaves the pod uncaptured on purpose; the guard lets nothing else out."""
REPLY_ROUTE_TABLE: Final = 100
REPLY_RULE_PRIORITY: Final = 32764
DNS_CONNTRACK_ZONE: Final = 1
"""Of the tunnel's own DNS queries, so that their source ports do not meet those of the application's."""
PROBE_SOURCE_V4: Final = "169.254.7.127"
PROBE_SOURCE_V6: Final = "fd16:9254:7127:1337:ffff:ffff:ffff:ffff"

# --- Paths on the node and in our containers ------------------------------------------------------------------------
ZDS_SOCKET: Final = "/var/run/ztunnel/ztunnel.sock"
SDS_SOCKET: Final = "/var/run/ztunnel/sds.sock"
ACCESS_LOG_SOCKET: Final = "/var/run/ztunnel/access-log.sock"
"""The node agent's secret discovery socket, beside the ZDS socket in the one folder that both containers share."""
CNI_EVENT_SOCKET: Final = "/var/run/istio-cni/pluginevent.sock"
CNI_PLUGIN_NAME: Final = "culvert-cni"
CNI_BIN_DIR: Final = "/opt/cni/bin"
CNI_NET_DIR: Final = "/etc/cni/net.d"
XTABLES_LOCK: Final = "/run/xtables.lock"
"""Held while a process changes the host's iptables: kube-proxy, network plugins, the node agent."""
DIRECT_LIMIT: Final = 100_000
"""Direct connections of a node at a time; the kernel's table has some more places (``cv_flows``)."""
BPF_PINS: Final = "/proc/1/root/sys/fs/bpf/culvert"
"""Where the capture by BPF is kept while no node agent runs, as the node agent sees the host's files."""
BPF_PINS_MOUNTED: Final = "/sys/fs/bpf/culvert"
"""The same as ztunnel sees it, into whose container the host's BPF file system is mounted."""
TOKEN_PATH: Final = "/var/run/secrets/tokens/istio-token"
ROOT_CERT_PATH: Final = "/var/run/secrets/istio/root-cert.pem"
CRL_PATH: Final = "/var/run/secrets/istio/crl/ca-crl.pem"
SERVICE_ACCOUNT_DIR: Final = "/var/run/secrets/kubernetes.io/serviceaccount"

# --- Inside a waypoint's pod, as Istio's agent has them --------------------------------------------------------------
ENVOY_ADMIN_PORT: Final = 15000
ENVOY_PROMETHEUS_PORT: Final = 15090
WAYPOINT_HOST_ADMIN_PORT: Final = 15004
"""Log level of the host, on localhost."""
WORKLOAD_SDS_SOCKET: Final = "./var/run/secrets/workload-spiffe-uds/socket"
"""Relative, as Envoy's configuration names it: Envoy runs in the root of the file system."""
ENVOY_XDS_SOCKET: Final = "./etc/istio/proxy/XDS"
ENVOY_BOOTSTRAP: Final = "./etc/istio/proxy/envoy-rev.json"
POD_INFO_DIR: Final = "./etc/istio/pod"
"""Where the pod's labels and annotations are projected to."""
WORKLOAD_SECRET_NAME: Final = "default"
"""SDS name of the waypoint's own certificate."""
XDS_CLUSTER: Final = "xds-grpc"
SDS_CLUSTER: Final = "sds-grpc"

# --- Discovery types ------------------------------------------------------------------------------------------------
WAYPOINT_NODE: Final = "waypoint"
"""First part of a waypoint's node ID."""
GATEWAY_NODE: Final = "router"
"""First part of the node ID of a gateway at the edge."""
ADDRESS_TYPE: Final = "type.googleapis.com/istio.workload.Address"
AUTHORIZATION_TYPE: Final = "type.googleapis.com/istio.security.Authorization"
MESH_CONFIG_TYPE: Final = "type.googleapis.com/istio.mesh.v1alpha1.MeshConfig"
MESH_CONFIG_RESOURCE: Final = "mesh"
"""Name of the one resource of that type."""
DEBUG_TYPE: Final = "istio.io/debug"
"""Type URL by which ``istioctl`` requests a debug page from the control plane."""
SYNC_STATUS_TYPE: Final = "istio.io/debug/syncz"
CLUSTER_TYPE: Final = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
ENDPOINT_TYPE: Final = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENER_TYPE: Final = "type.googleapis.com/envoy.config.listener.v3.Listener"
EXTENSION_CONFIG_TYPE: Final = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
ROUTE_TYPE: Final = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
SECRET_TYPE: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
ROOT_SECRET_NAME: Final = "ROOTCA"
"""SDS name of the trust bundle (a validation context), as Istio's agent and SPIRE call it."""
FILE_ROOTS: Final = "file-root"
"""Prefix of SDS names of roots in a file of the proxy's pod, as ``file-root:ROOTS`` or ``file-root:ROOTS~REVOKED``."""
FILE_CERTIFICATE: Final = "file-cert"
"""Prefix of SDS names of certificates in files of the proxy's pod, as ``file-cert:CHAIN~KEY``."""
KUBERNETES_SECRET: Final = "kubernetes://"
"""Prefix of SDS names of Secrets."""
SYSTEM_ROOTS_SECRET_NAME: Final = "file-root:system"
"""SDS name of the roots that the proxy's image trusts."""

STATIC_STRICT_POLICY: Final = "istio_converted_static_strict"
CONVERTED_PEER_AUTHENTICATION_PREFIX: Final = "converted_peer_authentication_"
