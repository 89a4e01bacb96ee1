"""Warnings about fields of the mesh configuration that have no effect, or another effect than in Istio."""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from meshapi.mesh_config import providers, unsupported
from meshapi.mesh_config.model import CertificateData, MeshConfig, OutboundMode
from meshapi.mesh_config.providers import ExtensionProvider
from meshapi.mesh_config.unsupported import Unsupported

_STDOUT: Final = "/dev/stdout"
_OFF: Final = frozenset({"", "/dev/null"})
_NEAR: Final = 0.7
_INDEX: Final = re.compile(r"\[\d+\]")
_PROVIDER: Final = Unsupported("name the collector in extensionProviders, and the provider in defaultProviders.tracing")
_NO_DYNATRACE: Final = Unsupported("waypoints do not use what is Dynatrace's own; randomSamplingPercentage counts")
_NO_KIND: Final = Unsupported("no proxy of Culvert uses providers of this kind")
_NESTED: Final = {
    ("outboundTrafficPolicy", "tls"): Unsupported("ztunnel starts no TLS to destinations outside the mesh"),
    **{
        ("defaultConfig.tracing", tracer): _PROVIDER
        for tracer in ("zipkin", "lightstep", "datadog", "stackdriver", "openCensusAgent", "tlsSettings")
    },
    ("defaultConfig.tracing", "enableIstioTags"): Unsupported("set enableIstioTags in a Telemetry"),
    ("extensionProviders.opentelemetry", "dynatraceSampler"): _NO_DYNATRACE,
    ("extensionProviders.opentelemetry.resourceDetectors", "dynatrace"): _NO_DYNATRACE,
    ("extensionProviders.opentelemetry", "serviceAttributeEnrichment"): Unsupported(
        "spans of a waypoint have its name and namespace as service.name"
    ),
    **{
        ("extensionProviders", kind): _NO_KIND
        for kind in ("lightstep", "datadog", "stackdriver", "opencensus", "skywalking", "sds")
    },
}
"""Public fields of messages that are honoured otherwise."""


@dataclass(frozen=True, slots=True)
class Notice:
    """One sentence about one field.

    Attributes:
        field: its path within the mesh configuration.
        text: what is wrong or what happens, without a full stop.
        is_unknown: whether MeshConfig has no such field.
    """

    field: str
    text: str
    is_unknown: bool = False


def of_unsupported(field: str, value: Any, about: Unsupported) -> list[Notice]:
    """Return the notice about a public field that is not honoured; none where its value is empty or harmless."""
    is_empty = value in ("", [], {}) and not isinstance(value, bool)
    if is_empty or any(value == one and type(value) is type(one) for one in about.harmless):
        return []
    return [Notice(field, f"has no effect: {about.effect}")]


def of_unknown(field: str, known: Iterable[str]) -> Notice:
    """Return the notice about a field that MeshConfig does not have."""
    name = field.rpartition(".")[2]
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=_NEAR)
    hint = f"did you mean {near[0]}?" if near else "check the spelling"
    return Notice(field, f"is not a field of the mesh configuration and has no effect; {hint}", is_unknown=True)


def of_extra(at: str, name: str, known: Iterable[str]) -> Notice:
    """Return the notice about a field below an honoured one."""
    field = f"{at}.{name}" if at else name
    about = _NESTED.get((_INDEX.sub("", at), name))
    if about is None and at == "defaultConfig":
        about = unsupported.PROXY_FIELDS.get(name)
        known = [*known, *unsupported.PROXY_FIELDS]
    return Notice(field, f"has no effect: {about.effect}") if about else of_unknown(field, known)


def of_config(config: MeshConfig) -> Iterator[Notice]:
    """Return the notices about values of honoured fields."""
    if config.access_log_file is not None and config.access_log_file not in _OFF | {_STDOUT}:
        text = f"waypoints write the file; ztunnel writes its access log to {_STDOUT} only, and does so now"
        yield Notice("accessLogFile", text)
    if config.outbound_traffic_policy.mode is OutboundMode.ALLOW_ANY_DYNAMIC_DNS:
        yield Notice(
            "outboundTrafficPolicy.mode", "ztunnel connects to the address that the client has resolved, as ALLOW_ANY"
        )
    if config.default_service_export_to not in ((), ("*",)):
        text = (
            "applies to ServiceEntries; services of Kubernetes stay visible to all namespaces, "
            "since hiding them would send traffic to them in plain text"
        )
        yield Notice("defaultServiceExportTo", text)
    if config.service_entry_visibility is not None and config.service_entry_visibility.apply_to_sidecars:
        yield Notice("serviceEntryVisibility.applyToSidecars", "has no effect: Culvert has no sidecars")
    if not config.default_config.hold_application_until_proxy_starts:
        text = "has no effect: a new pod's containers always start after its traffic is captured"
        yield Notice("defaultConfig.holdApplicationUntilProxyStarts", text)
    yield from _of_default_providers(config)
    for index, data in enumerate(config.ca_certificates):
        yield from _of_certificates(f"caCertificates[{index}]", data, config)


def _of_default_providers(config: MeshConfig) -> Iterator[Notice]:
    known = providers.by_name(config.extension_providers)
    uses: tuple[tuple[str, tuple[str, ...], Callable[[ExtensionProvider], object]], ...] = (
        ("accessLogging", config.default_providers.access_logging, lambda one: one.access_log),
        ("metrics", config.default_providers.metrics, lambda one: one.prometheus),
        ("tracing", config.default_providers.tracing, lambda one: one.tracing),
    )
    for use, named, find in uses:
        for name in named:
            found = known.get(name.lower())
            if found is None:
                yield Notice(f"defaultProviders.{use}", f"names {name}, which extensionProviders does not have")
            elif find(found) is None:
                yield Notice(f"defaultProviders.{use}", f"names {name}, which is a provider for something else")
    tracing = config.default_providers.tracing
    if config.enable_tracing and not tracing:
        text = "sends no spans by itself; name a provider in defaultProviders.tracing, or in a Telemetry"
        yield Notice("enableTracing", text)
    if config.enable_tracing is False and tracing:
        yield Notice(
            "enableTracing", "has no effect on defaultProviders.tracing, as in Istio; remove the provider there"
        )
    for name in tracing[1:]:
        yield Notice("defaultProviders.tracing", f"names {name}, too; only the first provider counts")


def _of_certificates(at: str, data: CertificateData, config: MeshConfig) -> Iterator[Notice]:
    if data.spiffe_bundle_url:
        yield Notice(f"{at}.spiffeBundleUrl", "is not fetched: write the bundle's certificates into pem")
    if data.cert_signers:
        yield Notice(f"{at}.certSigners", f"the certificates are not added to the roots: {_ONE_SIGNER}")
    if not is_trusted(data, config) and not data.cert_signers:
        yield Notice(
            f"{at}.trustDomains",
            "the certificates are not added to the roots: none of these is trustDomain or an alias",
        )


_ONE_SIGNER: Final = "the control plane is the only signer"


def is_trusted(data: CertificateData, config: MeshConfig) -> bool:
    """Return whether the certificates become roots for all: every proxy has one trust bundle for all trust domains."""
    own = {config.trust_domain, *config.trust_domain_aliases}
    return not data.cert_signers and (not data.trust_domains or bool(own & set(data.trust_domains)))
