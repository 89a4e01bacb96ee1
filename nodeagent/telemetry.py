"""Metrics of the node agent; names are those of Istio's CNI agent where there is one with the same meaning."""

from dataclasses import dataclass

from prometheus_client.core import Metric

from meshkit import metrics
from meshkit.metrics import counter, gauge
from meshkit.secrets.manager import SecretManager
from meshkit.secrets.revocation import RevocationFile
from nodeagent.capture.choice import Ebpf
from nodeagent.capture.egress_filter import EgressFilter
from nodeagent.capture.guard import Guard
from nodeagent.capture.repair import Repairs
from nodeagent.cni.install import Installer
from nodeagent.cni.requests import PluginRequests
from nodeagent.enrolment.captured import Enrolled
from nodeagent.enrolment.controller import Controller
from nodeagent.zds.server import ZdsServer


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts whose own numbers are read at each scrape."""

    controller: Controller
    enrolled: Enrolled
    zds: ZdsServer
    secrets: SecretManager
    requests: PluginRequests
    installer: Installer | None
    repairs: Repairs
    revocations: RevocationFile
    guard: Guard
    egress: EgressFilter | None
    ebpf: Ebpf | None


def source(parts: Parts) -> metrics.Source:
    """Return the source of all families."""
    return lambda: [*_capture(parts), *_certificates(parts), *_plugin(parts)]


def _capture(parts: Parts) -> list[Metric]:
    return [
        gauge("ztunnel_connected", "Whether a ztunnel is connected", parts.zds.connected),
        gauge("culvert_captured_pods", "Pods that are captured", len(parts.enrolled)),
        counter(
            "nodeagent_reconcile_events",
            "Reconciliations that changed a pod, repairs included",
            parts.controller.reconciled + parts.repairs.repaired["pod"],
        ),
        counter(
            "nodeagent_capture_repairs",
            "Rules or routes that another process changed and that were restored",
            parts.repairs.repaired,
            "scope",
        ),
        counter(
            "culvert_guard_drops",
            "Packets of captured pods that the guard dropped: not passed (unmarked, unreadable) or not translated by "
            "the capture rules",
            parts.guard.drops(),
            "reason",
        ),
        *_egress(parts.egress),
        *_hooks(parts.ebpf),
    ]


def _egress(egress: EgressFilter | None) -> list[Metric]:
    if egress is None:
        return []
    text = "Packets that were dropped in pods that may reach only what the registry knows (label culvert.io/egress)"
    return [counter("culvert_egress_drops", text, egress.drops(), "reason")]


def _hooks(ebpf: Ebpf | None) -> list[Metric]:
    if ebpf is None:
        return []
    text = "Connections that BPF hooks have handed to the tunnel, passed on purpose or refused, and DNS queries"
    return [counter("culvert_ebpf_captures", text, ebpf.node.counts(), "what")]


def _certificates(parts: Parts) -> list[Metric]:
    ends = {identity: end.timestamp() if end else 0 for identity, end in parts.secrets.expirations().items()}
    return [
        counter("culvert_certificate_failures", "Certificates not issued", parts.secrets.failures),
        gauge("culvert_crl_lists", "Revocation lists in force", parts.revocations.lists),
        counter("culvert_crl_failures", "Invalid contents of the file of revocation lists", parts.revocations.failures),
        gauge(
            "culvert_certificate_expiry_timestamp_seconds",
            "End of validity, seconds since the epoch",
            ends,
            "identity",
        ),
    ]


def _plugin(parts: Parts) -> list[Metric]:
    requests = counter("istio_cni_plugin_requests", "Requests of the CNI plugin", parts.requests.answered, "status")
    if parts.installer is None:
        return [requests]
    return [
        requests,
        gauge("istio_cni_install_ready", "Whether the plugin is in place", parts.installer.installed),
        counter("istio_cni_installs", "Times the plugin was installed", parts.installer.installations),
    ]
