"""Settings of the control plane. Names of environment variables follow Istio's where it has the same setting."""

from pathlib import Path

from pydantic import Field, field_validator

from controlplane.proxies.defaults import POD_FIELDS, ProxyDefaults, read_json
from meshapi import names
from meshapi.analysis.enrolment import EnrolmentRules, SidecarInjection
from meshkit.settings import ProcessSettings

_TRUSTED = ",".join(
    f"{names.DEFAULT_NAMESPACE}/{account}"
    for account in (names.ZTUNNEL_SERVICE_ACCOUNT, names.NODE_AGENT_SERVICE_ACCOUNT)
)


class Settings(ProcessSettings):
    """Flags and environment of ``culvert-controlplane``."""

    kubeconfig: Path | None = Field(default=None, description="Kubeconfig file; inside a pod none is needed.")
    pod_namespace: str = Field(
        default=names.DEFAULT_NAMESPACE, description="Namespace of the control plane, its secrets and the mesh config."
    )
    pod_name: str = Field(
        default="", description="Name of this replica in the election of the leader; empty is the host's name."
    )
    cluster_id: str = Field(default=names.DEFAULT_CLUSTER_ID, description="Name of this cluster in the mesh.")
    cluster_domain: str = Field(default=names.DEFAULT_CLUSTER_DOMAIN, description="Suffix of service names.")
    xds_address: str = Field(
        default=f"[::]:{names.CONTROL_PLANE_XDS_PORT}", description="Where xDS and the CA are served, over TLS."
    )
    metrics_address: str = Field(
        default=f":{names.CONTROL_PLANE_METRICS_PORT}",
        description="Where metrics are served; no host is every address.",
    )
    health_address: str = Field(
        default=f":{names.CONTROL_PLANE_HEALTH_PORT}", description="Where /ready is served; no host is every address."
    )
    webhook_address: str = Field(
        default=f":{names.CONTROL_PLANE_WEBHOOK_PORT}",
        description="Where objects are validated for the API server, over TLS; no host is every address.",
    )
    admin_address: str = Field(
        default=f"127.0.0.1:{names.CONTROL_PLANE_ADMIN_PORT}", description="Where debug pages are served."
    )
    minimum_drain_s: float = Field(
        default=2.0,
        ge=0.0,
        description="Time from the request to end in which others stop choosing this pod; it serves until then.",
    )
    ca_trusted_node_accounts: str = Field(
        default=_TRUSTED,
        description="Service accounts (namespace/name, separated by commas) that may request certificates of the "
        "workloads on their own node.",
    )
    workload_cert_ttl_s: int = Field(
        default=24 * 3600, gt=0, description="Default lifetime of a certificate, in seconds."
    )
    max_workload_cert_ttl_s: int = Field(
        default=90 * 24 * 3600, gt=0, description="Longest lifetime that may be requested, in seconds."
    )
    self_signed_ca_ttl_s: int = Field(
        default=10 * 365 * 24 * 3600, gt=0, description="Life of a self-made root certificate, in seconds."
    )
    serving_names: str = Field(
        default="istiod,istiod.{namespace},istiod.{namespace}.svc",
        description="DNS names in the control plane's own certificate, separated by commas.",
    )
    ambient_enable_dry_run_authorization_policy: bool = Field(
        default=False, description="Send dry-run policies; every ztunnel must be 1.29 or later."
    )

    exclude_namespaces: str = Field(
        default="kube-system", description="Namespaces that are never enrolled, separated by commas."
    )
    sidecar_injection_label: SidecarInjection = Field(
        default=SidecarInjection.IGNORE,
        description="What istio-injection=enabled of a namespace means: ignore, or ambient (its pods are enrolled).",
    )
    automatic_waypoint_retention_s: float = Field(
        default=600.0,
        ge=0.0,
        description="How long an automatic waypoint stays after the last service that needed it, in seconds.",
    )
    waypoint_image: str = Field(default="", description="Image of waypoints; empty: none are made.")
    waypoint_image_pull_policy: str = Field(default="IfNotPresent", description="When that image is pulled.")
    waypoint_image_pull_secrets: str = Field(
        default="", description="Secrets for that image, in the waypoint's namespace, separated by commas."
    )
    waypoint_grace_period_s: int = Field(
        default=30, ge=1, description="Time that a waypoint's pod has to end, in seconds."
    )
    waypoint_resources: str = Field(default="{}", description="Resources of waypoints' containers, as JSON.")
    waypoint_pod: str = Field(
        default="{}",
        description=f"Further fields of waypoints' pods, as JSON: {', '.join(sorted(POD_FIELDS))}.",
    )

    @field_validator("waypoint_resources", "waypoint_pod")
    @classmethod
    def _json(cls, value: str) -> str:
        read_json(value)
        return value

    @field_validator("waypoint_pod")
    @classmethod
    def _pod_fields(cls, value: str) -> str:
        unknown = sorted(set(read_json(value)) - POD_FIELDS)
        if unknown:
            raise ValueError(f"{unknown[0]} may not be set here; write {', '.join(sorted(POD_FIELDS))}")
        return value

    @field_validator("ca_trusted_node_accounts")
    @classmethod
    def _accounts(cls, value: str) -> str:
        for item in filter(None, value.split(",")):
            namespace, slash, name = item.strip().partition("/")
            if not (namespace and slash and name):
                raise ValueError(f"{item!r} is not a service account; write namespace/name")
        return value

    @property
    def enrolment(self) -> EnrolmentRules:
        """Which namespaces are enrolled; the node agents' settings say the same."""
        return EnrolmentRules(
            frozenset(filter(None, (name.strip() for name in self.exclude_namespaces.split(",")))),
            self.pod_namespace,
            injection_enrols=self.sidecar_injection_label is SidecarInjection.AMBIENT,
        )

    @property
    def proxy_defaults(self) -> ProxyDefaults:
        """What all waypoints have in common."""
        return ProxyDefaults(
            image=self.waypoint_image,
            pull_policy=self.waypoint_image_pull_policy,
            pull_secrets=tuple(filter(None, self.waypoint_image_pull_secrets.split(","))),
            xds_address=f"{names.CONTROL_PLANE_SERVICE}.{self.pod_namespace}.svc:{names.CONTROL_PLANE_XDS_PORT}",
            cluster_id=self.cluster_id,
            cluster_domain=self.cluster_domain,
            log_level=self.log_level.value,
            log_format=self.log_format.value,
            grace_period_s=self.waypoint_grace_period_s,
            resources=read_json(self.waypoint_resources),
            pod=read_json(self.waypoint_pod),
        )

    @property
    def trusted_accounts(self) -> frozenset[tuple[str, str]]:
        """The trusted node accounts as pairs of namespace and name."""
        pairs = (item.strip().partition("/") for item in self.ca_trusted_node_accounts.split(",") if item.strip())
        return frozenset((namespace, name) for namespace, _, name in pairs)

    @property
    def serving_dns_names(self) -> tuple[str, ...]:
        """The DNS names of the serving certificate."""
        given = self.serving_names.format(namespace=self.pod_namespace)
        return tuple(item.strip() for item in given.split(",") if item.strip())


def host_and_port(address: str) -> tuple[str, int]:
    """Split ``host:port`` or ``[host]:port``; an empty host is every address of both families.

    Raises:
        ValueError: there is no port.
    """
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
