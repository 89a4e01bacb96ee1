"""The public fields of MeshConfig and ProxyConfig that Culvert does not honour, and what happens instead.

Source of the names: istio/api, ``mesh/v1alpha1/config.proto`` and ``proxy.proto``, master of July 2026. A field that is
neither here nor in ``meshapi.mesh_config.model`` is unknown.
"""

from dataclasses import dataclass
from typing import Any, Final

from meshapi import names


@dataclass(frozen=True, slots=True)
class Unsupported:
    """One field without an effect.

    Attributes:
        effect: what happens instead; follows "has no effect: ".
        harmless: values that equal what happens anyway; they cause no warning.
    """

    effect: str
    harmless: tuple[Any, ...] = ()


_HTTP: Final = "ztunnel carries TCP; set it where the waypoint is configured"
_PORTS: Final = "ztunnel listens on ports 15001, 15006 and 15008 of each pod"
_TELEMETRY: Final = (
    "ztunnel exports access log records by ztunnel.accessLogOtlp, waypoints by extensionProviders; "
    "metrics are fetched by Prometheus"
)
_CERTIFICATE: Final = "the control plane signs every workload certificate itself"
_TLS: Final = "ztunnel always uses mutual TLS 1.3 with its own cipher suites"
_ROUTING: Final = "ztunnel applies no VirtualService or DestinationRule"
_RETRIES: Final = "ztunnel has its own retries and outlier ejection (CONNECT_ATTEMPTS, OUTLIER_*)"
_ENVOY: Final = "it configures Envoy, and no pod has one"
_CHART: Final = "set it in the chart's values"

FIELDS: Final[dict[str, Unsupported]] = {
    "proxyListenPort": Unsupported(_PORTS, (0, names.OUTBOUND_PORT)),
    "proxyInboundListenPort": Unsupported(_PORTS, (0, names.INBOUND_PLAINTEXT_PORT)),
    "proxyHttpPort": Unsupported(_PORTS, (0,)),
    "hboneIdleTimeout": Unsupported("in Istio, too, only Envoy reads it, ztunnel does not"),
    "protocolDetectionTimeout": Unsupported("ztunnel detects no protocols", ("0s",)),
    "enableEnvoyAccessLogService": Unsupported(_TELEMETRY, (False,)),
    "disableEnvoyListenerLog": Unsupported(_ENVOY, (False,)),
    "inboundTrafficPolicy": Unsupported(
        "ztunnel connects to the pod's own address", ({"mode": "PASSTHROUGH"}, {"mode": 0})
    ),
    "configSources": Unsupported("the control plane reads the Kubernetes API only"),
    "enableAutoMtls": Unsupported("traffic between pods of the mesh is always mutual TLS", (True,)),
    "defaultVirtualServiceExportTo": Unsupported(_ROUTING),
    "defaultDestinationRuleExportTo": Unsupported(_ROUTING),
    "zoneAwareLbSetting": Unsupported("set trafficDistribution of the Service"),
    "dnsRefreshRate": Unsupported("ztunnel resolves a host again when the TTL of the answer has passed"),
    "h2UpgradePolicy": Unsupported(_HTTP, ("DO_NOT_UPGRADE", 0)),
    "inboundClusterStatName": Unsupported(_ENVOY),
    "outboundClusterStatName": Unsupported(_ENVOY),
    "certificates": Unsupported(_CERTIFICATE),
    "serviceSettings": Unsupported("Culvert serves one cluster; every service is local to it"),
    "serviceScopeConfigs": Unsupported("Culvert serves one cluster; every service is local to it"),
    "enablePrometheusMerge": Unsupported(
        "pods have no sidecar to merge in; Prometheus scrapes the application directly and ztunnel on port 15020",
        (False,),
    ),
    "verifyCertificateAtClient": Unsupported("ztunnel always verifies the peer's certificate", (True,)),
    "ca": Unsupported(_CERTIFICATE),
    "pathNormalization": Unsupported(_HTTP),
    "defaultHttpRetryPolicy": Unsupported(_HTTP),
    "meshMTLS": Unsupported(_TLS, ({"minProtocolVersion": "TLSV1_3"}, {"minProtocolVersion": "TLS_AUTO"})),
    "tlsDefaults": Unsupported(_TLS),
    "defaultTrafficPolicy": Unsupported(_RETRIES),
}
"""Fields of MeshConfig by their JSON names."""

PROXY_FIELDS: Final[dict[str, Unsupported]] = {
    "configPath": Unsupported(_ENVOY),
    "binaryPath": Unsupported(_ENVOY),
    "serviceCluster": Unsupported(_ENVOY),
    "tracingServiceName": Unsupported(_ENVOY),
    "drainDuration": Unsupported(f"{_CHART}, ztunnel.terminationGracePeriodSeconds"),
    "discoveryAddress": Unsupported("the chart sets the control plane's address for ztunnel and the node agent"),
    "discoveryRefreshDelay": Unsupported(_ENVOY),
    "zipkinAddress": Unsupported("name the collector in extensionProviders"),
    "statsdUdpAddress": Unsupported(_TELEMETRY),
    "envoyMetricsServiceAddress": Unsupported(_TELEMETRY),
    "proxyAdminPort": Unsupported(f"{_CHART}, ztunnel.env.ADMIN_PORT", (names.ZTUNNEL_ADMIN_PORT,)),
    "availabilityZone": Unsupported("the control plane reads the zone from the node's labels"),
    "controlPlaneAuthPolicy": Unsupported("proxies always use TLS and a token to the control plane", ("MUTUAL_TLS",)),
    "customConfigFile": Unsupported(_ENVOY),
    "statNameLength": Unsupported(_ENVOY),
    "concurrency": Unsupported(f"{_CHART}, ztunnel.workerThreads"),
    "proxyBootstrapTemplatePath": Unsupported(_ENVOY),
    "interceptionMode": Unsupported("the node agent chooses the capture backend (nodeAgent.captureBackend)"),
    "sds": Unsupported("workload certificates always come by SDS"),
    "envoyAccessLogService": Unsupported(_TELEMETRY),
    "envoyMetricsService": Unsupported(_TELEMETRY),
    "proxyMetadata": Unsupported(f"{_CHART}, ztunnel.env"),
    "runtimeValues": Unsupported(_ENVOY),
    "statusPort": Unsupported(f"{_CHART}, ztunnel.env.METRICS_PORT and READINESS_PORT", (names.METRICS_PORT,)),
    "extraStatTags": Unsupported("ztunnel's metrics have Istio's standard labels"),
    "terminationDrainDuration": Unsupported(f"{_CHART}, ztunnel.terminationGracePeriodSeconds"),
    "meshId": Unsupported("Culvert serves one mesh"),
    "readinessProbe": Unsupported("the chart sets the probe of ztunnel's pods"),
    "proxyStatsMatcher": Unsupported("ztunnel's metrics are Istio's standard ones"),
    "caCertificatesPem": Unsupported("write the certificates into meshConfig.caCertificates"),
    "image": Unsupported(f"{_CHART}, image"),
    "privateKeyProvider": Unsupported("private keys stay in the memory of node agent and ztunnel"),
    "proxyHeaders": Unsupported(_HTTP),
    "fileFlushInterval": Unsupported("waypoints write access logs each second, ztunnel at once"),
    "fileFlushMinSizeKb": Unsupported("waypoints write access logs each second, ztunnel at once"),
    "statsCompression": Unsupported(_ENVOY),
    "connectionSettings": Unsupported(_HTTP),
}
"""Fields of ProxyConfig (``defaultConfig``) by their JSON names."""
