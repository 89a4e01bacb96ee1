"""Settings of ztunnel. Environment names are those of Istio's where there is one with the same meaning."""

from enum import StrEnum
from pathlib import Path

from pydantic import AliasChoices, Field

from meshapi import names
from meshproxy.settings import ProxySettings
from ztunnel.labels import MetricLabel


class AccessLog(StrEnum):
    """How connections are logged."""

    OFF = "off"
    TEXT = "text"
    JSON = "json"
    MESH = "mesh"


class ZtunnelSettings(ProxySettings):
    """Settings of ``culvert-ztunnel``."""

    pod_name: str = Field(default="ztunnel", description="Name of the pod that this process runs in.")
    service_account: str = Field(
        default=names.ZTUNNEL_SERVICE_ACCOUNT,
        description="Service account of that pod; part of its identity in the mesh.",
    )
    pod_tunnel: str = Field(
        default="",
        description=f"Value of that pod's label `{names.TUNNEL_LABEL}`. With `{names.TUNNEL_LABEL_HTTP}` the pod is a "
        "workload of the mesh: port 15008 is served in it, too.",
    )
    zds_socket: Path = Field(
        default=Path(names.ZDS_SOCKET),
        validation_alias=AliasChoices("zds_socket", "INPOD_UDS"),
        description="The node agent's socket for workloads.",
    )
    worker_threads: int = Field(
        default=2, ge=1, le=64, description="Threads that move the bytes of a workload; at most one a core."
    )
    max_worker_threads: int = Field(
        default=128,
        ge=1,
        le=1024,
        description="Threads for all workloads. Each has its own as long as these suffice; then they share, fairly.",
    )
    reserved_cpus: int = Field(
        default=1,
        ge=0,
        le=1024,
        description="CPUs that CPU-bound proxy threads leave free for other workloads; 0 is none.",
    )
    access_log: AccessLog = Field(
        default=AccessLog.MESH,
        description="How connections are logged, on standard output; mesh: as accessLogFile, accessLogEncoding and "
        "accessLogFormat of the mesh configuration say, where they say nothing as text.",
    )
    handover_s: float = Field(
        default=10.0,
        ge=0,
        description="How much of that time new connections are still taken while no successor serves, seconds.",
    )
    connect_timeout_s: float | None = Field(
        default=None,
        gt=0,
        le=300,
        description="Timeout of a TCP connect, seconds. Default: connectTimeout of the mesh configuration, else 10.",
    )
    connect_attempts: int = Field(
        default=3, ge=1, le=10, description="Endpoints of a service that one connection tries before it fails."
    )
    connect_attempt_delay_s: float = Field(
        default=1.0,
        gt=0,
        le=60,
        description="How long an endpoint may be silent until another is tried beside it, seconds.",
    )
    outlier_consecutive_failures: int = Field(
        default=5, ge=0, description="Failed connects in a row that eject an endpoint for a while; 0 ejects none."
    )
    outlier_base_ejection_s: float = Field(
        default=30.0, gt=0, le=300, description="Length of the first ejection, seconds; further ones are longer."
    )
    outlier_max_ejection_percent: int = Field(
        default=50, ge=0, le=100, description="Share of a service's endpoints that are ejected at most, never the last."
    )
    dns_proxy: bool = Field(
        default=True,
        validation_alias=AliasChoices("dns_proxy", "ISTIO_META_DNS_CAPTURE"),
        description="Answer DNS inside captured pods: names of the mesh here, all else by the pod's own resolver.",
    )
    cluster_domain: str = Field(
        default=names.DEFAULT_CLUSTER_DOMAIN, description="Domain of the cluster's services, for short names in DNS."
    )
    max_connections_per_workload: int = Field(default=20_000, ge=1, description="Open connections of one workload.")
    max_handshakes_per_workload: int = Field(default=512, ge=1, description="TLS handshakes of one workload at a time.")
    max_buffered_bytes_per_workload: int = Field(
        default=256 * 1024 * 1024,
        ge=1024 * 1024,
        description="Bytes held for one workload's connections; beyond, they move in small steps.",
    )
    max_bandwidth_per_workload: int = Field(
        default=0, ge=0, description="Bytes a second that one workload's connections carry together; 0 is no bound."
    )
    removal_drain_s: float = Field(
        default=3600.0, ge=0, description="How long open streams of a removed workload may go on, seconds."
    )

    direct_connections: bool = Field(
        default=False,
        description="Whether two captured pods of this node, without a waypoint, connect directly where policy allows "
        "it. The node agent has the same setting, and captures with the backend ebpf.",
    )
    bpf_pins: Path = Field(
        default=Path(names.BPF_PINS_MOUNTED),
        description="Folder of the node agent's programs and maps, as this process sees it.",
    )

    metrics_idle_s: float = Field(
        default=1800.0,
        ge=0,
        le=4_000_000,
        description="Time series of connections that none has used for so long are evicted, seconds; 0 is never.",
    )
    metrics_excluded_labels: list[MetricLabel] = Field(
        default=[],
        description="Labels that are left out of `istio_tcp_*`; series that differ only in these become one. Kiali "
        "needs all but the regions and zones.",
    )
