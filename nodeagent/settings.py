"""Settings of the node agent."""

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode

from meshapi import names
from meshapi.analysis.enrolment import SidecarInjection
from meshkit.settings import ProcessSettings
from nodeagent.capture.choice import Wanted


def _split(value: object) -> object:
    """Read a list as Istio's ``EXCLUDE_NAMESPACES`` writes it: items separated by commas."""
    if isinstance(value, str):
        return [item.strip() for item in value.split(",") if item.strip()]
    return value


class NodeAgentSettings(ProcessSettings):
    """Settings of ``culvert-nodeagent``."""

    node_name: str = Field(description="Name of the node that this process serves.")
    pod_namespace: str = Field(default=names.DEFAULT_NAMESPACE, description="Namespace that Culvert is installed in.")
    cluster_id: str = Field(default=names.DEFAULT_CLUSTER_ID, description="Name of the cluster.")
    trust_domain: str = Field(
        default=names.DEFAULT_TRUST_DOMAIN, description="Trust domain of the workloads' identities."
    )
    kubeconfig: Path | None = Field(
        default=None, description="Access to Kubernetes; default: the pod's own service account."
    )
    exclude_namespaces: Annotated[list[str], NoDecode, BeforeValidator(_split)] = Field(
        default=["kube-system"], description="Namespaces that are never enrolled, separated by commas."
    )
    sidecar_injection_label: SidecarInjection = Field(
        default=SidecarInjection.IGNORE,
        description="What istio-injection=enabled of a namespace means: ignore, or ambient (its pods are enrolled).",
    )

    ca_address: str = Field(
        default=f"{names.CONTROL_PLANE_SERVICE}.{names.DEFAULT_NAMESPACE}.svc:{names.CONTROL_PLANE_XDS_PORT}",
        description="Certificate authority, as host:port.",
    )
    ca_root: Path = Field(
        default=Path(names.ROOT_CERT_PATH), description="PEM file of the roots that the authority is checked against."
    )
    ca_server_name: str = Field(
        default="", description="Name that the authority's certificate must have, where it is not the address."
    )
    crl_path: Path = Field(
        default=Path(names.CRL_PATH),
        description="PEM file of revocation lists that peers' certificates are checked against; it may be missing.",
    )
    token_path: Path = Field(default=Path(names.TOKEN_PATH), description="File of the token shown to the authority.")
    certificate_ttl_s: int = Field(
        default=24 * 3600, ge=60, description="Requested lifetime of workload certificates, in seconds."
    )

    zds_socket: Path = Field(default=Path(names.ZDS_SOCKET), description="Socket that ztunnel connects to.")
    sds_socket: Path = Field(default=Path(names.SDS_SOCKET), description="Socket that certificates are served on.")
    cni_socket: Path = Field(
        default=Path(names.CNI_EVENT_SOCKET), description="Socket that the CNI plugin calls, as the host sees it."
    )
    host_netns: Path = Field(default=Path("/proc/1/ns/net"), description="The host's network namespace.")

    capture_backend: Wanted = Field(
        default=Wanted.AUTO,
        description="How traffic is captured: ebpf, nftables, iptables, or auto, the first of these that works.",
    )
    bpf_pins: Path = Field(
        default=Path(names.BPF_PINS),
        description="Folder of this agent's programs and maps for the backend ebpf, in the host's BPF file system.",
    )
    direct_connections: bool = Field(
        default=False,
        description="With the backend ebpf: whether two captured pods of this node, without a waypoint, connect "
        "directly where policy allows it, authenticated by the kernel and not encrypted. ztunnel has the same setting.",
    )
    capture_guard: bool = Field(
        default=True,
        description="Whether captured pods get a BPF program that keeps their TCP in while the capture rules are gone.",
    )
    ambient_dns_capture: bool = Field(
        default=True,
        description=f"Whether to capture DNS queries of pods without the annotation {names.DNS_CAPTURE_ANNOTATION}.",
    )
    xtables_lock: Path = Field(
        default=Path(names.XTABLES_LOCK), description="Lock of the host's iptables, for the backend iptables."
    )

    cni_plugin: Path | None = Field(
        default=None,
        description="The CNI plugin's binary; without it none is installed and only running pods are captured.",
    )
    cni_bin_dir: Path = Field(
        default=Path("/host") / names.CNI_BIN_DIR.lstrip("/"), description="The host's folder of CNI plugins."
    )
    cni_net_dir: Path = Field(
        default=Path("/host") / names.CNI_NET_DIR.lstrip("/"), description="The host's folder of CNI configurations."
    )

    metrics_address: str = Field(default="0.0.0.0", description="Address of the metrics and health endpoints.")  # noqa: S104
    metrics_port: int = Field(default=names.NODE_AGENT_METRICS_PORT, description="Metrics.")
    health_port: int = Field(
        default=names.NODE_AGENT_HEALTH_PORT, description="Readiness (/readyz) and liveness (/healthz)."
    )
