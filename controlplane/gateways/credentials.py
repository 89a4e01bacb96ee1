"""What the TLS of Istio's Gateways refers to: Secrets, files of the pods, the mesh's own certificates. Pure.

Secrets are read from the namespace of the gateway's pods, not from the Gateway's. ``kubernetes-gateway://NAMESPACE/NAME``
may name another namespace, where a ReferenceGrant from Gateways of the pods' namespace allows it.
Facts: Istio's ``pilot/pkg/model/credentials/resource.go`` and ``pilot/pkg/credentials/kube/secrets.go``.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from controlplane.gateways.grants import Referrer
from controlplane.gateways.listener import ClientCheck, Demand, EdgeListener, ServerTls
from controlplane.gateways.references import References
from controlplane.inputs.sources import TlsSecret
from controlplane.inputs.verdicts import Verdict
from meshapi import names
from meshapi.resources.istio_gateway import ServerTLS, TlsMode, TlsVersion
from meshkit.kube import Key

_SCHEMES: Final = (names.GATEWAY_SECRET, names.KUBERNETES_SECRET)
_DEMANDS: Final = {TlsMode.MUTUAL: Demand.VALID, TlsMode.OPTIONAL_MUTUAL: Demand.VALID_IF_ANY}
_INVALID: Final = "InvalidCertificateRef"
_CIPHERS: Final = frozenset(
    {
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "ECDHE-RSA-CHACHA20-POLY1305",
        "ECDHE-ECDSA-AES128-SHA",
        "ECDHE-RSA-AES128-SHA",
        "ECDHE-ECDSA-AES256-SHA",
        "ECDHE-RSA-AES256-SHA",
        "AES128-GCM-SHA256",
        "AES256-GCM-SHA384",
        "AES128-SHA",
        "AES256-SHA",
    }
)
"""Suites that Envoy knows; one that it does not know would have it refuse the whole listener."""


@dataclass(slots=True)
class _Reading:
    """The TLS of one server, while it is read.

    Attributes:
        tls: as the user writes it.
        namespace: of the gateway's pods.
        references: how names are resolved.
        faults: why something cannot be used; filled by use.
    """

    tls: ServerTLS
    namespace: str
    references: References
    faults: list[str] = field(default_factory=list)

    def certificates(self) -> tuple[Key, ...]:
        """Return the Secrets with certificates that can be used."""
        usable = []
        for name in self.tls.names:
            key, found = self._secret(name)
            if found is None:
                continue
            if found.fault or found.warning:
                self.faults.append(f"Secret {'/'.join(key)} {found.fault or found.warning}")
            if not found.fault:
                usable.append(key)
        return tuple(dict.fromkeys(usable))

    def roots(self) -> Key | None:
        """Return the Secret with the roots of clients' certificates; ``None``: there is none that can be used."""
        named = self.tls.ca_cert_credential_name
        if named:
            return self._with_roots(named)
        # As in Istio, roots may be in a Secret of their own, so that reading them needs no right to read the key.
        apart = f"{self.tls.names[0]}{names.GATEWAY_CLIENT_ROOTS}"
        _, found = self._secret(apart)
        if found is None:
            return None
        return self._with_roots(apart if found.is_there else self.tls.names[0])

    def _with_roots(self, name: str) -> Key | None:
        key, found = self._secret(name)
        if found is not None and found.roots_fault:
            self.faults.append(f"Secret {'/'.join(key)} {found.roots_fault}")
        return key if found is not None and found.roots else None

    def _secret(self, name: str) -> tuple[Key, TlsSecret | None]:
        """Return the key of a Secret, and what is in it; ``None``, with a fault, where it cannot be read."""
        scheme = next((one for one in _SCHEMES if name.startswith(one)), "")
        given, _, short = name.removeprefix(scheme).rpartition("/")
        key = (given or self.namespace, short)
        shown = f"Secret {'/'.join(key)}"
        who = Referrer("Gateway", self.namespace)
        if "://" in short or "://" in given:
            self.faults.append(f"{name} is no Secret of Kubernetes, and others are not read")
        elif key[0] != self.namespace and scheme != names.GATEWAY_SECRET:
            hint = f"write {names.GATEWAY_SECRET}{'/'.join(key)} and a ReferenceGrant, or copy it"
            self.faults.append(f"{shown} is not in namespace {self.namespace} of the gateway's pods; {hint}")
        elif not self.references.is_granted(who, "Secret", key):
            self.faults.append(f"no ReferenceGrant lets Gateways of {self.namespace} use {shown}")
        else:
            self.references.secrets.add(key)
            found = self.references.secret(key)
            if found is None:
                self.faults.append(f"{shown} has not been read yet")
            return key, found
        return key, None


def with_tls(listener: EdgeListener, tls: ServerTLS, namespace: str, references: References) -> EdgeListener:
    """Return a listener with its certificates; what cannot be used is left out, and the condition says so.

    A listener whose clients' certificates cannot be checked is refused.

    Args:
        listener: the listener.
        tls: as the user writes it.
        namespace: of the gateway's pods.
        references: how names are resolved.
    """
    if listener.spoken is None or not listener.spoken.ends_tls:
        return listener
    if tls.mode is TlsMode.ISTIO_MUTUAL:
        of_mesh = replace(_parameters(tls), is_mesh=True)
        names_of_peers = replace(_check(tls, Demand.VALID), is_mesh=True)
        return replace(listener, tls=of_mesh, clients=names_of_peers)
    reading = _Reading(tls, namespace, references)
    files = () if tls.names else tuple(f"{names.FILE_CERTIFICATE}:{chain}~{key}" for chain, key in tls.files)
    found = replace(listener, certificates=reading.certificates(), tls=replace(_parameters(tls), files=files))
    demand = _DEMANDS.get(tls.mode)
    if demand is not None:
        found = _with_check(found, reading, _check(tls, demand))
    if reading.faults and found.resolved.is_true:
        found = replace(found, resolved=Verdict(False, _INVALID, "; ".join(dict.fromkeys(reading.faults))))
    return found


def problems(tls: ServerTLS) -> Iterator[str]:
    """Yield what of the TLS of a server has no effect."""
    unknown = [one for one in tls.cipher_suites if one not in _CIPHERS]
    if unknown:
        yield f"tls.cipherSuites: {', '.join(unknown)} is not known, and ignored"
    of_clients: dict[str, object] = {
        "caCertificates": tls.ca_certificates,
        "caCertCredentialName": tls.ca_cert_credential_name,
        "caCrl": tls.ca_crl,
        "subjectAltNames": tls.subject_alt_names,
        "verifyCertificateSpki": tls.verify_certificate_spki,
        "verifyCertificateHash": tls.verify_certificate_hash,
    }
    own = {"credentialName": tls.names, "serverCertificate": tls.files, "cipherSuites": tls.cipher_suites}
    without: dict[TlsMode, dict[str, object]] = {
        TlsMode.SIMPLE: of_clients,
        TlsMode.PASSTHROUGH: {**own, **of_clients},
        TlsMode.AUTO_PASSTHROUGH: {**own, **of_clients},
    }
    given = [name for name, value in without.get(tls.mode, {}).items() if value]
    if given:
        why = "the gateway does not end TLS" if tls.mode.is_passthrough else "clients show no certificate"
        yield f"tls.{', '.join(given)} has no effect with mode {tls.mode}: {why}"
    if tls.names and tls.ca_crl:
        yield "tls.caCrl has no effect with credentialName; put the list into the Secret, as ca.crl"


def _with_check(listener: EdgeListener, reading: _Reading, check: ClientCheck) -> EdgeListener:
    tls = reading.tls
    if not tls.names and not tls.ca_cert_credential_name:
        revoked = f"~{tls.ca_crl}" if tls.ca_crl else ""
        return replace(listener, clients=replace(check, file=f"{names.FILE_ROOTS}:{tls.ca_certificates}{revoked}"))
    before = len(reading.faults)
    secret = reading.roots()
    if secret is not None:
        return replace(listener, clients=replace(check, secret=secret))
    why = "; ".join(reading.faults[before:]) or "there are no roots"
    refused = Verdict(False, "NoValidCACertificate", f"clients' certificates cannot be checked: {why}")
    return replace(listener, clients=check, accepted=refused if listener.accepted.is_true else listener.accepted)


def _check(tls: ServerTLS, demand: Demand) -> ClientCheck:
    return ClientCheck(
        demand=demand,
        names=tls.subject_alt_names,
        keys=tls.verify_certificate_spki,
        hashes=tls.verify_certificate_hash,
    )


def _parameters(tls: ServerTLS) -> ServerTls:
    oldest, newest = _version(tls.min_protocol_version), _version(tls.max_protocol_version)
    if not oldest:
        # The default is not newer than what the user allows.
        oldest = newest if newest in {"TLSv1_0", "TLSv1_1"} else ServerTls().oldest
    return ServerTls(oldest, newest, tuple(one for one in tls.cipher_suites if one in _CIPHERS))


def _version(given: TlsVersion) -> str:
    """Return a version as Envoy names it; empty: Envoy's default."""
    return "" if given is TlsVersion.TLS_AUTO else given.value.replace("TLSV", "TLSv")
