"""Metrics of the node agent; names are those of Istio's CNI agent where there is one with the same meaning."""

from importlib.metadata import version

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from nodeagent.capture.guard import Guard
from nodeagent.capture.repair import Repairs
from nodeagent.cni.install import Installer
from nodeagent.cni.requests import PluginRequests
from nodeagent.enrolment.captured import Enrolled
from nodeagent.enrolment.controller import Controller
from nodeagent.secrets.manager import SecretManager
from nodeagent.secrets.revocation import RevocationFile
from nodeagent.zds.server import ZdsServer


class AgentState(Collector):
    """Reads the parts' own numbers at each scrape."""

    def __init__(
        self,
        *,
        controller: Controller,
        enrolled: Enrolled,
        zds: ZdsServer,
        secrets: SecretManager,
        requests: PluginRequests,
        installer: Installer | None,
        repairs: Repairs,
        revocations: RevocationFile,
        guard: Guard,
    ) -> None:
        self._controller = controller
        self._enrolled = enrolled
        self._zds = zds
        self._secrets = secrets
        self._requests = requests
        self._installer = installer
        self._repairs = repairs
        self._revocations = revocations
        self._guard = guard

    def collect(self) -> list[Metric]:
        """Return all families."""
        requests = CounterMetricFamily("istio_cni_plugin_requests", "Requests of the CNI plugin", labels=["status"])
        for status, count in self._requests.answered.items():
            requests.add_metric([status], count)
        repairs = CounterMetricFamily(
            "nodeagent_capture_repairs",
            "Rules or routes that another process changed and that were restored",
            labels=["scope"],
        )
        for scope, count in self._repairs.repaired.items():
            repairs.add_metric([scope], count)
        drops = CounterMetricFamily(
            "culvert_guard_drops",
            "Packets of captured pods that the guard dropped: not passed (unmarked, unreadable) or not translated by "
            "the capture rules",
            labels=["reason"],
        )
        for reason, count in self._guard.drops().items():
            drops.add_metric([reason], count)
        families: list[Metric] = [
            GaugeMetricFamily("ztunnel_connected", "Whether a ztunnel is connected", value=self._zds.connected),
            GaugeMetricFamily("culvert_captured_pods", "Pods that are captured", value=len(self._enrolled)),
            CounterMetricFamily(
                "nodeagent_reconcile_events",
                "Reconciliations that changed a pod, repairs included",
                value=self._controller.reconciled + self._repairs.repaired["pod"],
            ),
            repairs,
            drops,
            CounterMetricFamily(
                "culvert_certificate_failures", "Certificates not issued", value=self._secrets.failures
            ),
            GaugeMetricFamily("culvert_crl_lists", "Revocation lists in force", value=self._revocations.lists),
            CounterMetricFamily(
                "culvert_crl_failures",
                "Invalid contents of the file of revocation lists",
                value=self._revocations.failures,
            ),
            requests,
        ]
        expiry = GaugeMetricFamily(
            "culvert_certificate_expiry_timestamp_seconds",
            "End of validity, seconds since the epoch",
            labels=["identity"],
        )
        for identity, end in self._secrets.expirations().items():
            expiry.add_metric([identity], end.timestamp() if end else 0)
        families.append(expiry)
        if self._installer is not None:
            ready, count = self._installer.installed, self._installer.installations
            families.append(GaugeMetricFamily("istio_cni_install_ready", "Whether the plugin is in place", value=ready))
            families.append(CounterMetricFamily("istio_cni_installs", "Times the plugin was installed", value=count))
        return families


def registry(state: AgentState) -> CollectorRegistry:
    """Return the registry that the metrics port exposes."""
    made = CollectorRegistry()
    made.register(state)
    ProcessCollector(registry=made)
    build = Gauge("istio_build", "Component and version", ["component", "tag"], registry=made)
    build.labels(component="cni", tag=version("culvert")).set(1)
    return made
