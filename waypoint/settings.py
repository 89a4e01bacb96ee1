"""Settings of the host of a waypoint's or gateway's proxy. Names of variables are those of Istio's pods."""

from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field

from meshapi import names
from meshkit.settings import ProcessSettings

_XDS = f"{names.CONTROL_PLANE_SERVICE}.{names.DEFAULT_NAMESPACE}.svc:{names.CONTROL_PLANE_XDS_PORT}"


class WaypointSettings(ProcessSettings):
    """Flags and environment of ``culvert-waypoint``.

    Every variable ``ISTIO_META_NAME`` is metadata ``NAME`` of the node besides, as with Istio's agent.
    """

    pod_name: str = Field(description="Name of the pod that this process runs in.")
    pod_namespace: str = Field(description="Namespace of that pod.")
    service_account: str = Field(description="Service account of that pod; part of its identity in the mesh.")
    instance_ip: str = Field(description="Addresses of that pod, separated by commas.")
    node_type: Literal["waypoint", "router"] = Field(
        default="waypoint", description="What the proxy is: a waypoint, or a gateway at the edge of the mesh (router)."
    )
    trust_domain: str = Field(default=names.DEFAULT_TRUST_DOMAIN, description="Trust domain of the mesh.")
    cluster_domain: str = Field(default=names.DEFAULT_CLUSTER_DOMAIN, description="Suffix of service names.")
    cluster_id: str = Field(
        default=names.DEFAULT_CLUSTER_ID,
        validation_alias=AliasChoices("cluster_id", "ISTIO_META_CLUSTER_ID"),
        description="Name of the cluster.",
    )

    xds_address: str = Field(default=_XDS, description="Control plane, as host:port.")
    xds_root_ca: Path = Field(
        default=Path(names.ROOT_CERT_PATH),
        description="PEM file of the roots that control plane and certificate authority are checked against.",
    )
    xds_server_name: str = Field(
        default="",
        validation_alias=AliasChoices("xds_server_name", "ALT_XDS_HOSTNAME"),
        description="Name that the control plane's certificate must have, where it is not the address.",
    )
    ca_address: str = Field(
        default="",
        validation_alias=AliasChoices("ca_address", "CA_ADDR"),
        description="Certificate authority, as host:port; empty: the control plane.",
    )
    token_path: Path = Field(default=Path(names.TOKEN_PATH), description="File of the service-account token.")
    certificate_ttl_s: int = Field(default=24 * 3600, ge=60, description="Requested lifetime of the certificate.")
    crl_path: Path = Field(default=Path(names.CRL_PATH), description="PEM file of revocation lists; may be missing.")
    system_roots: Path = Field(
        default=Path("/etc/ssl/certs/ca-certificates.crt"),
        description="PEM file of the roots for TLS to servers outside of the mesh.",
    )

    root: Path = Field(default=Path("/"), description="Folder that Envoy runs in: relative paths begin there.")
    envoy: str = Field(default="envoy", description="The program.")
    concurrency: int = Field(
        default=0,
        ge=0,
        validation_alias=AliasChoices("concurrency", "ISTIO_CPU_LIMIT"),
        description="Worker threads of Envoy; 0: one for each CPU of the node.",
    )
    proxy_log_level: str = Field(default="warning", description="Envoy's log level.")
    proxy_component_log_level: str = Field(
        default="misc:error", description="Envoy's log levels of single components, as upstream:debug,http:info."
    )

    admin_port: int = Field(default=names.ENVOY_ADMIN_PORT, description="Envoy's admin pages, on localhost.")
    prometheus_port: int = Field(default=names.ENVOY_PROMETHEUS_PORT, description="Envoy's own metrics.")
    metrics_port: int = Field(default=names.METRICS_PORT, description="Metrics of Envoy and of this process.")
    readiness_port: int = Field(default=names.READINESS_PORT, description="Readiness.")
    host_admin_port: int = Field(
        default=names.WAYPOINT_HOST_ADMIN_PORT, description="Log level of this process, on localhost."
    )

    termination_grace_period_seconds: float = Field(
        default=30.0,
        ge=1.0,
        description="Time from the request to end until the kill; streams may go on for most of it.",
    )
    minimum_drain_s: float = Field(
        default=5.0, ge=0.0, description="Time for others to stop choosing this pod; new streams are taken until then."
    )

    @property
    def drain_s(self) -> float:
        """Seconds that streams may go on after the request to end."""
        grace_s = self.termination_grace_period_seconds
        return grace_s - 5 if grace_s > 10 else max(grace_s - 1, 1.0)

    def under_root(self, path: str) -> Path:
        """Return a path that Envoy's configuration names relatively."""
        return self.root / path
