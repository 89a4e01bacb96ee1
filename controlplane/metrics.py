"""Metrics under the names that Istio's dashboards and Kiali query."""

import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from prometheus_client import CollectorRegistry, Gauge, Histogram, PlatformCollector, ProcessCollector

_CONVERGENCE_BUCKETS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 3, 5, 10, 20, 30)
"""Istio's, and finer ones below 0.1 s: a change here reaches proxies in milliseconds."""
_PUSH_BUCKETS: Final = (0.001, 0.01, 0.1, 0.5, 1, 3, 5, 10, 20, 30)


def _count(name: str, help_text: str, labels: Sequence[str] = (), *, registry: CollectorRegistry) -> Gauge:
    """Return a counter under exactly this name: the library appends ``_total`` to those of its own kind."""
    return Gauge(name, help_text, labels, registry=registry)


def own_version() -> str:
    """Return the version of the installed distribution; ``0.0.0-dev`` when run from a source tree."""
    try:
        return version("culvert")
    except PackageNotFoundError:
        return "0.0.0-dev"


class Metrics:
    """All metrics of the control plane, in a registry of their own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        tag = own_version()
        Gauge("istio_build", "Version of this component.", ["component", "tag"], registry=registry).labels(
            "pilot", tag
        ).set(1)
        Gauge("pilot_info", "Version of the control plane.", ["version"], registry=registry).labels(tag).set(1)
        started = time.monotonic()
        uptime = Gauge("istiod_uptime_seconds", "Time since the start.", registry=registry)
        uptime.set_function(lambda: time.monotonic() - started)
        self.leads = Gauge("culvert_leader", "Whether this replica is the one that writes.", registry=registry)
        self.connected = Gauge("pilot_xds", "Connected proxies.", ["version"], registry=registry)
        self.pushes = _count("pilot_xds_pushes", "Responses sent.", ["type"], registry=registry)
        self.rejects = _count("pilot_total_xds_rejects", "Responses refused.", ["type"], registry=registry)
        self.internal_errors = _count("pilot_total_xds_internal_errors", "Failed computations.", registry=registry)
        self.convergence = Histogram(
            "pilot_proxy_convergence_time",
            "Seconds from a change to the written response.",
            buckets=_CONVERGENCE_BUCKETS,
            registry=registry,
        )
        self.push_time = Histogram(
            "pilot_xds_push_time",
            "Seconds to compute what a change means.",
            ["type"],
            buckets=_PUSH_BUCKETS,
            registry=registry,
        )
        self.queue_time = Histogram(
            "pilot_proxy_queue_time",
            "Seconds from a change to the moment at which a proxy's response is begun.",
            buckets=_CONVERGENCE_BUCKETS,
            registry=registry,
        )
        self.send_time = Histogram(
            "pilot_xds_send_time", "Seconds to write a response.", buckets=_PUSH_BUCKETS, registry=registry
        )
        self.debounce_time = Histogram(
            "pilot_debounce_time",
            "Seconds from the first of several changes to their computation.",
            buckets=_PUSH_BUCKETS,
            registry=registry,
        )
        self.first_computation = Histogram(
            "pilot_pushcontext_init_seconds",
            "Seconds of the first computation of everything.",
            buckets=(0.01, 0.1, 0.5, 1, 3, 5),
            registry=registry,
        )
        self.triggers = _count("pilot_push_triggers", "What has led to a computation.", ["type"], registry=registry)
        self.size = Histogram(
            "pilot_xds_config_size_bytes",
            "Size of responses.",
            ["type"],
            buckets=(1, 1e4, 1e6, 4e6, 1e7, 4e7),
            registry=registry,
        )
        self.services = Gauge("pilot_services", "Known services.", registry=registry)
        self.inbound_updates = _count(
            "pilot_inbound_updates", "Changes seen in Kubernetes.", ["type"], registry=registry
        )
        self.registry_events = _count(
            "pilot_k8s_reg_events",
            "Changes of Kubernetes' own objects.",
            ["type", "event"],
            registry=registry,
        )
        self.config_events = _count(
            "pilot_k8s_cfg_events",
            "Changes of mesh resources.",
            ["type", "event"],
            registry=registry,
        )
        self.rejected_configs = _count(
            "pilot_total_rejected_configs", "Objects that cannot be used.", ["type"], registry=registry
        )
        resource = ["group", "version", "resource"]
        self.validation_passed = _count(
            "galley_validation_passed", "Objects that the webhook has let through.", resource, registry=registry
        )
        self.validation_failed = _count(
            "galley_validation_failed",
            "Objects that the webhook has refused.",
            [*resource, "reason"],
            registry=registry,
        )
        self.csrs = _count("citadel_server_csr_count", "Certificate requests.", registry=registry)
        self.issued = _count("citadel_server_success_cert_issuance_count", "Certificates issued.", registry=registry)
        self.authentication_failures = _count(
            "citadel_server_authentication_failure_count", "Callers refused.", registry=registry
        )
        self.csr_parse_errors = _count(
            "citadel_server_csr_parsing_err_count", "Requests that cannot be read.", registry=registry
        )
        self.csr_sign_errors = _count(
            "citadel_server_csr_sign_err_count", "Requests that could not be signed.", registry=registry
        )
        self.root_expiry = Gauge(
            "citadel_server_root_cert_expiry_timestamp", "Expiry of the root, Unix time.", registry=registry
        )
        self.root_expiry_seconds = Gauge(
            "citadel_server_root_cert_expiry_seconds", "Time until the root expires.", registry=registry
        )
        self.chain_expiry = Gauge(
            "citadel_server_cert_chain_expiry_timestamp", "Expiry of the signing chain, Unix time.", registry=registry
        )
        self.chain_expiry_seconds = Gauge(
            "citadel_server_cert_chain_expiry_seconds", "Time until the signing chain expires.", registry=registry
        )
