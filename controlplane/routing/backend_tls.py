"""BackendTLSPolicies: TLS that is spoken to the endpoints of a service, and the policies' conditions. Pure.

Source: Gateway API v1, ``BackendTLSPolicy``. A policy whose certificates cannot be read is in force and accepts no
certificate: connections fail, they do not go on without TLS.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from controlplane.inputs.sources import Certificates
from controlplane.inputs.verdicts import Verdict
from controlplane.routing.route_references import RESOLVED
from meshapi.resources.backend_policies import BackendTLSPolicy, LocalReference, PolicyTarget, SubjectAltNameType
from meshkit.kube import Key

SYSTEM: Final = "System"
_ACCEPTED: Final = Verdict(True, "Accepted", "the policy is accepted")


@dataclass(frozen=True, slots=True)
class BackendTls:
    """TLS to endpoints.

    Attributes:
        hostname: server name that is sent.
        names: of which the certificate has to have one, each with its kind.
        roots: certificates of the trusted authorities, PEM; empty: none, unless ``trusts_system``.
        trusts_system: whether the authorities of the proxy's image are trusted.
        certificate: Secret with which the proxy proves itself, where it is a gateway that has one.
    """

    hostname: str
    names: tuple[tuple[SubjectAltNameType, str], ...]
    roots: str = ""
    trusts_system: bool = False
    certificate: Key | None = None


@dataclass(frozen=True, slots=True)
class TlsReading:
    """What a policy says.

    Attributes:
        key: of the policy.
        created: when; the older of two policies counts.
        targets: the services, or ports of services, that the policy names.
        tls: what it demands.
        accepted: condition ``Accepted``, as far as the policy itself has to do with it.
        resolved: condition ``ResolvedRefs``.
    """

    key: Key
    created: str
    targets: tuple[PolicyTarget, ...]
    tls: BackendTls
    accepted: Verdict
    resolved: Verdict


def read(item: BackendTLSPolicy, certificates: Callable[[str], Certificates | None]) -> TlsReading:
    """Return what a policy says.

    Args:
        item: the policy.
        certificates: returns what a ConfigMap of the policy's namespace has; ``None``: it has not been read yet.
    """
    return _Reading(item, certificates).result()


@dataclass(slots=True)
class _Reading:
    item: BackendTLSPolicy
    certificates: Callable[[str], Certificates | None]
    accepted: Verdict = _ACCEPTED
    resolved: Verdict = RESOLVED
    roots: list[str] = field(default_factory=list)

    def result(self) -> TlsReading:
        validation = self.item.spec.validation
        for index, one in enumerate(validation.ca_certificate_refs):
            self._take(f"spec.validation.caCertificateRefs[{index}]", one)
        is_system = validation.well_known_ca_certificates == SYSTEM and not validation.ca_certificate_refs
        if validation.well_known_ca_certificates not in {"", SYSTEM}:
            given = validation.well_known_ca_certificates
            fault = f"spec.validation.wellKnownCACertificates {given} is not known; write {SYSTEM}"
            self.accepted = Verdict(False, "Invalid", f"{fault}; connections fail")
        elif not self.roots and not is_system:
            fault = "no certificate of an authority can be read, so no certificate is accepted and connections fail"
            self.accepted = Verdict(False, "NoValidCACertificate", fault)
        elif self.item.spec.options:
            options = ", ".join(sorted(self.item.spec.options))
            self.accepted = Verdict(True, _ACCEPTED.reason, f"{_ACCEPTED.message}; spec.options are ignored: {options}")
        tls = BackendTls(validation.hostname, tuple(self._names()), "".join(self.roots), is_system)
        created = self.item.metadata.creation_timestamp
        return TlsReading(self.item.key, created, self.item.spec.target_refs, tls, self.accepted, self.resolved)

    def _take(self, path: str, one: LocalReference) -> None:
        if (one.group, one.kind) != ("", "ConfigMap"):
            self._unresolved(
                "InvalidKind", f"{path}: {one.group}/{one.kind} is no kind of certificates; use a ConfigMap"
            )
            return
        found = self.certificates(one.name)
        if found is None or not found.pem:
            reason = "has not been read yet" if found is None else found.fault
            shown = f"{self.item.metadata.namespace}/{one.name}"
            self._unresolved("InvalidCACertificateRef", f"{path}: ConfigMap {shown} {reason}")
            return
        self.roots.append(found.pem)

    def _unresolved(self, reason: str, message: str) -> None:
        if self.resolved.is_true:
            self.resolved = Verdict(False, reason, message)

    def _names(self) -> Iterator[tuple[SubjectAltNameType, str]]:
        validation = self.item.spec.validation
        for one in validation.subject_alt_names:
            yield one.type, one.hostname if one.type is SubjectAltNameType.HOSTNAME else one.uri
        if not validation.subject_alt_names:
            yield SubjectAltNameType.HOSTNAME, validation.hostname
