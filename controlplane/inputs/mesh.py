"""Mesh-wide context of every translation."""

from dataclasses import dataclass, field

from meshapi import names
from meshapi.analysis.enrolment import EnrolmentRules
from meshapi.mesh_config.model import ServiceEntryVisibility
from meshapi.resources.core import Service


@dataclass(frozen=True, slots=True)
class MeshContext:
    """Mesh-wide facts.

    Attributes:
        trust_domain: of all identities.
        root_namespace: where policies hold for all namespaces.
        cluster_id: name of this cluster.
        cluster_domain: suffix of service names.
        network: name of this cluster's network; empty is the default one.
        trust_domain_aliases: trust domains that principals in policies may name instead of ``trust_domain``.
        default_export_to: ``exportTo`` of ServiceEntries that have none.
        service_entry_visibility: bounds the visibility of ServiceEntries; ``None``: no bound.
        automatic_waypoints: whether the control plane makes waypoints for services that need one and name none.
        enrolment: which namespaces are enrolled.
        sends_dry_run: whether dry-run policies are sent. A ztunnel before 1.29 would enforce them.
    """

    trust_domain: str = names.DEFAULT_TRUST_DOMAIN
    root_namespace: str = names.DEFAULT_NAMESPACE
    cluster_id: str = names.DEFAULT_CLUSTER_ID
    cluster_domain: str = names.DEFAULT_CLUSTER_DOMAIN
    network: str = ""
    trust_domain_aliases: tuple[str, ...] = ()
    default_export_to: tuple[str, ...] = ()
    service_entry_visibility: ServiceEntryVisibility | None = None
    automatic_waypoints: bool = False
    enrolment: EnrolmentRules = field(default_factory=EnrolmentRules)
    sends_dry_run: bool = False

    @property
    def wire_trust_domain(self) -> str:
        """The trust domain as workloads carry it: empty means ``cluster.local``."""
        return "" if self.trust_domain == names.DEFAULT_TRUST_DOMAIN else self.trust_domain

    def hostname(self, service: Service) -> str:
        """Return the full DNS name of a service."""
        return f"{service.metadata.name}.{service.metadata.namespace}.svc.{self.cluster_domain}"

    def service_name(self, service: Service) -> str:
        """Return a service's resource name: ``namespace/hostname``."""
        return f"{service.metadata.namespace}/{self.hostname(service)}"
