"""The fields of MeshConfig that Culvert honours, with the checks that each value must pass.

Every field is read on its own (see ``meshapi.mesh_config.reading``), so one bad value does not take the others with
it. Names are accepted as in JSON and as in the .proto file, enum values by name and by number, as protobuf's JSON
mapping does.
"""

import re
from enum import StrEnum
from typing import Annotated, Any, Final, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from meshapi import names
from meshapi.mesh_config.log_providers import Message
from meshapi.mesh_config.providers import ExtensionProvider, named_once
from meshapi.mesh_config.trace_providers import ProxyTracing
from meshapi.resources.destination_rule import LocalityLbSetting
from meshapi.selectors import LabelSelector

_TRUST_DOMAIN: Final = re.compile(r"[a-z0-9._-]{1,255}")
"""SPIFFE-ID.md, section 2.1."""
_DURATION_PART: Final = re.compile(r"(\d+(?:\.\d+)?|\.\d+)(ms|s|m|h|us|ns)")
_SECONDS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_EXPORT_ALL: Final = "*"
_EXPORT_NONE: Final = "~"
_MAX_SOCKET_OPTION: Final = 32_767
"""Linux, ``MAX_TCP_KEEPIDLE`` and ``MAX_TCP_KEEPINTVL`` in seconds."""
_MAX_PROBES: Final = 127
"""Linux, ``MAX_TCP_KEEPCNT``."""
_MAX_UINT32: Final = 2**32 - 1


EnumT = TypeVar("EnumT", bound=StrEnum)


def _by_number(*values: StrEnum) -> BeforeValidator:
    """Accept an enum value by its number; ``values`` are in the order of the numbers."""

    def convert(given: Any) -> Any:
        is_number = isinstance(given, int) and not isinstance(given, bool)
        return values[given] if is_number and 0 <= given < len(values) else given

    return BeforeValidator(convert)


def seconds(value: Any) -> float:
    """Read a duration such as ``10s``, ``1.5s``, ``500ms`` or ``1m30s``; return seconds."""
    text = str(value)
    parts = list(_DURATION_PART.finditer(text))
    if not isinstance(value, str) or not parts or "".join(part.group() for part in parts) != text:
        raise ValueError(f"{text!r} is not a duration; write it as 10s or 500ms")
    return sum(float(part.group(1)) * _SECONDS[part.group(2)] for part in parts)


def _at_least_1ms(value: float) -> float:
    if not 0.001 <= value <= 3600:
        raise ValueError("must be between 1ms and 1h")
    return value


def _socket_seconds(value: float) -> float:
    if not 1 <= value <= _MAX_SOCKET_OPTION:
        raise ValueError(f"must be between 1s and {_MAX_SOCKET_OPTION}s, which is what the kernel takes")
    return value


def _trust_domain(value: str) -> str:
    if not _TRUST_DOMAIN.fullmatch(value):
        raise ValueError(f"{value!r} is not a trust domain; use lower-case letters, digits, '.', '-' and '_'")
    return value


TrustDomain = Annotated[str, AfterValidator(_trust_domain)]


class AccessLogEncoding(StrEnum):
    """Form of the lines of the access log."""

    TEXT = "TEXT"
    JSON = "JSON"


class OutboundMode(StrEnum):
    """What happens to connections to addresses that the mesh does not know."""

    REGISTRY_ONLY = "REGISTRY_ONLY"
    ALLOW_ANY = "ALLOW_ANY"
    ALLOW_ANY_DYNAMIC_DNS = "ALLOW_ANY_DYNAMIC_DNS"


def _outbound_mode(given: Any) -> Any:
    numbers = {0: OutboundMode.REGISTRY_ONLY, 1: OutboundMode.ALLOW_ANY, 3: OutboundMode.ALLOW_ANY_DYNAMIC_DNS}
    return numbers.get(given, given) if isinstance(given, int) and not isinstance(given, bool) else given


class OutboundTrafficPolicy(Message):
    """What captured pods may connect to."""

    mode: Annotated[OutboundMode, BeforeValidator(_outbound_mode)] = OutboundMode.ALLOW_ANY


class TcpKeepalive(Message):
    """Keepalive probes of the connections that ztunnel opens; an absent value is ztunnel's own."""

    probes: int | None = Field(default=None, ge=1, le=_MAX_PROBES)
    time: Annotated[float, BeforeValidator(seconds), AfterValidator(_socket_seconds)] | None = None
    interval: Annotated[float, BeforeValidator(seconds), AfterValidator(_socket_seconds)] | None = None


class CertificateData(Message):
    """One source of additional roots."""

    pem: str = ""
    spiffe_bundle_url: str = ""
    cert_signers: tuple[str, ...] = ()
    trust_domains: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _is_readable(self) -> "CertificateData":
        if self.pem and self.spiffe_bundle_url:
            raise ValueError("pem and spiffeBundleUrl exclude each other; keep one of them")
        if self.pem:
            roots(self.pem)
        return self


def roots(pem: str) -> list[x509.Certificate]:
    """Read the CA certificates of a PEM text.

    Raises:
        ValueError: it has none, one cannot be read, or one is not a CA certificate.
    """
    try:
        found = x509.load_pem_x509_certificates(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("pem is not a list of PEM certificates; paste them with their BEGIN and END lines") from None
    for certificate in found:
        try:
            is_authority = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        except (x509.ExtensionNotFound, ValueError):
            is_authority = False
        if not is_authority:
            subject = certificate.subject.rfc4514_string() or "no subject"
            raise ValueError(f"pem holds a certificate ({subject}) that is not a CA; it needs CA:TRUE")
    return found


class Visibility(StrEnum):
    """Who sees the hosts of a ServiceEntry."""

    VISIBILITY_UNSPECIFIED = "VISIBILITY_UNSPECIFIED"
    NONE = "NONE"
    NAMESPACE = "NAMESPACE"
    PUBLIC = "PUBLIC"


_VISIBILITY = _by_number(*Visibility)


class MatchRule(Message):
    """A condition on the namespace of a ServiceEntry; one without a known matcher never matches."""

    namespace_selector: LabelSelector | None = None


class VisibilityPolicy(Message):
    """Visibility for the ServiceEntries that match all rules; without rules it matches all."""

    visibility: Annotated[Visibility, _VISIBILITY] = Visibility.VISIBILITY_UNSPECIFIED
    matching_rules: tuple[MatchRule, ...] = ()

    def matches(self, labels: dict[str, str]) -> bool:
        """Return whether the policy is for the ServiceEntries of a namespace with these labels."""
        return all(
            rule.namespace_selector is not None and rule.namespace_selector.matches(labels)
            for rule in self.matching_rules
        )


class ServiceEntryVisibility(Message):
    """Who sees which ServiceEntries, decided by their namespaces' labels."""

    default_visibility: Annotated[Visibility, _VISIBILITY] = Visibility.VISIBILITY_UNSPECIFIED
    apply_to_sidecars: bool = False
    policies: tuple[VisibilityPolicy, ...] = ()

    def of(self, labels: dict[str, str]) -> Visibility:
        """Return the visibility in a namespace with these labels: the first policy that matches, else the default."""
        for policy in self.policies:
            if policy.matches(labels):
                return _specified(policy.visibility)
        return _specified(self.default_visibility)


def _specified(visibility: Visibility) -> Visibility:
    return Visibility.PUBLIC if visibility is Visibility.VISIBILITY_UNSPECIFIED else visibility


def _export_to(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(values) > 1 and (_EXPORT_ALL in values or _EXPORT_NONE in values):
        raise ValueError("* and ~ must be alone; remove the other namespaces")
    return values


class ForwardClientCertDetails(StrEnum):
    """What gateways do with the header ``x-forwarded-client-cert`` of a request."""

    UNDEFINED = "UNDEFINED"
    """As ``SANITIZE_SET``."""
    SANITIZE = "SANITIZE"
    """It is removed."""
    FORWARD_ONLY = "FORWARD_ONLY"
    """It is kept where the client has proven itself by a certificate, else removed."""
    APPEND_FORWARD = "APPEND_FORWARD"
    """Likewise, and the client's certificate is added."""
    SANITIZE_SET = "SANITIZE_SET"
    """It is replaced by the client's certificate; removed where there is none."""
    ALWAYS_FORWARD_ONLY = "ALWAYS_FORWARD_ONLY"
    """It is kept, whichever client sends it."""


class ProxyProtocol(Message):
    """Clients of gateways have to send a header of the PROXY protocol (versions 1 and 2) first."""


class GatewayTopology(Message):
    """What is in front of gateways. Source: istio/api, ``mesh/v1alpha1/proxy.proto``, ``Topology``."""

    num_trusted_proxies: int = Field(default=0, ge=0, le=_MAX_UINT32)
    """How many proxies in front of a gateway write ``x-forwarded-for`` and are believed."""
    forward_client_cert_details: Annotated[ForwardClientCertDetails, _by_number(*ForwardClientCertDetails)] = (
        ForwardClientCertDetails.UNDEFINED
    )
    proxy_protocol: ProxyProtocol | None = None
    """``None``: no such header is expected."""


class ProxyConfig(Message):
    """Settings of proxies (``defaultConfig``)."""

    hold_application_until_proxy_starts: bool = True
    """Always so: a pod's sandbox is not ready before its traffic is captured."""
    tracing: ProxyTracing = ProxyTracing()
    gateway_topology: GatewayTopology = GatewayTopology()


class WaypointProvisioning(StrEnum):
    """Who makes waypoints."""

    MANUAL = "MANUAL"
    """Users, by Gateways and labels."""
    AUTOMATIC = "AUTOMATIC"
    """The control plane too, for services that need one and whose labels name none."""


class IngressMode(StrEnum):
    """Which Ingresses are served."""

    UNSPECIFIED = "UNSPECIFIED"
    OFF = "OFF"
    """None."""
    DEFAULT = "DEFAULT"
    """Those that name our class, or none."""
    STRICT = "STRICT"
    """Those that name our class."""


def _any_case(given: Any) -> Any:
    return given.upper() if isinstance(given, str) else given


class DefaultProviders(Message):
    """Providers of telemetry that counts where nothing else is said."""

    metrics: tuple[str, ...] = ()
    tracing: tuple[str, ...] = ()
    access_logging: tuple[str, ...] = ()


class MeshConfig(Message):
    """What users set for the mesh as a whole."""

    trust_domain: TrustDomain = names.DEFAULT_TRUST_DOMAIN
    trust_domain_aliases: tuple[TrustDomain, ...] = ()
    root_namespace: str = ""
    discovery_selectors: tuple[LabelSelector, ...] = ()
    default_service_export_to: Annotated[tuple[str, ...], AfterValidator(_export_to)] = ()
    service_entry_visibility: ServiceEntryVisibility | None = None
    ca_certificates: tuple[CertificateData, ...] = ()
    outbound_traffic_policy: OutboundTrafficPolicy = OutboundTrafficPolicy()
    access_log_file: str | None = None
    access_log_format: str = ""
    access_log_encoding: Annotated[AccessLogEncoding, _by_number(*AccessLogEncoding)] = AccessLogEncoding.TEXT
    connect_timeout: Annotated[float, BeforeValidator(seconds), AfterValidator(_at_least_1ms)] | None = None
    tcp_keepalive: TcpKeepalive | None = None
    default_config: ProxyConfig = ProxyConfig()
    locality_lb_setting: LocalityLbSetting = LocalityLbSetting()
    enable_tracing: bool | None = None
    default_providers: DefaultProviders = DefaultProviders()
    ingress_controller_mode: Annotated[IngressMode, _by_number(*IngressMode)] = IngressMode.STRICT
    ingress_class: str = ""
    ingress_service: str = ""
    ingress_selector: str = ""
    waypoints: Annotated[WaypointProvisioning, BeforeValidator(_any_case)] = WaypointProvisioning.MANUAL
    extension_providers: Annotated[tuple[ExtensionProvider, ...], AfterValidator(named_once)] = ()
