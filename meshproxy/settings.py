"""Settings that every proxy process takes. Environment names are Istio's where there is one with the same meaning."""

from pathlib import Path

from pydantic import AliasChoices, Field

from meshapi import names
from meshproxy.otlp.settings import OtlpSettings


class ProxySettings(OtlpSettings):
    """Settings of a proxy process: who it is, where its configuration and certificates come from, how it ends."""

    node_name: str = Field(description="Name of the node that this process serves.")
    pod_name: str = Field(description="Name of the pod that this process runs in.")
    pod_namespace: str = Field(default=names.DEFAULT_NAMESPACE, description="Namespace of that pod.")
    service_account: str = Field(description="Service account of that pod; part of its identity in the mesh.")
    instance_ip: str = Field(
        default="127.0.0.1", description="Address of that pod; part of the identification to the control plane."
    )
    cluster_id: str = Field(default=names.DEFAULT_CLUSTER_ID, description="Name of the cluster.")
    network: str = Field(default="", description="Name of the network; empty is the default one.")
    trust_domain: str = Field(
        default=names.DEFAULT_TRUST_DOMAIN, description="Trust domain of the workloads served here."
    )

    xds_address: str = Field(
        default=f"{names.CONTROL_PLANE_SERVICE}.{names.DEFAULT_NAMESPACE}.svc:{names.CONTROL_PLANE_XDS_PORT}",
        description="Control plane, as host:port.",
    )
    xds_root_ca: Path = Field(
        default=Path(names.ROOT_CERT_PATH),
        description="PEM file of the roots that the control plane is checked against.",
    )
    xds_server_name: str = Field(
        default="",
        validation_alias=AliasChoices("xds_server_name", "ALT_XDS_HOSTNAME"),
        description="Name that the control plane's certificate must have, where it is not the address.",
    )
    token_path: Path = Field(
        default=Path(names.TOKEN_PATH), description="File of the service-account token shown to the control plane."
    )
    sds_socket: Path = Field(
        default=Path(names.SDS_SOCKET),
        description="Socket of the certificate source: the node agent's, or any other SDS server's.",
    )
    snapshot_path: str = Field(
        default="",
        description="File that the state of the mesh is kept in, to start without the control plane; empty is none.",
    )

    access_log_socket: str = Field(
        default="",
        description="Socket at which root of the node reads the access log as it is written (`culvert trace`); empty "
        "is none.",
    )

    termination_grace_period_seconds: float = Field(
        default=30.0,
        ge=1.0,
        description="Time from the request to end until the kill; streams may go on for most of it.",
    )
    admin_port: int = Field(default=names.ZTUNNEL_ADMIN_PORT, description="Admin pages, on localhost.")
    metrics_port: int = Field(default=names.METRICS_PORT, description="Metrics.")
    readiness_port: int = Field(default=names.READINESS_PORT, description="Readiness.")

    @property
    def drain_s(self) -> float:
        """Seconds that streams may go on after the request to end: 5 s before the kill, as Istio's ztunnel."""
        grace_s = self.termination_grace_period_seconds
        return grace_s - 5 if grace_s > 10 else max(grace_s - 1, 1.0)
