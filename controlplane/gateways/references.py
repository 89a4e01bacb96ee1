"""What listeners refer to: certificates in Secrets, and roots for clients' certificates in ConfigMaps."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from controlplane.gateways.grants import Referrer
from controlplane.gateways.listener import ClientCheck, Demand, EdgeListener
from controlplane.inputs.sources import Certificates, TlsSecret
from controlplane.inputs.verdicts import Verdict
from meshapi.resources.gateway import FrontendMode, FrontendValidation, ObjectReference, SecretReference
from meshkit.kube import Key


@dataclass(frozen=True, slots=True)
class References:
    """How references of one gateway are resolved.

    Attributes:
        secret: returns a Secret; ``None``: it has not been read yet.
        certificates: returns the certificates in a ConfigMap; ``None``: it has not been read yet.
        is_granted: whether an object may refer to one of a kind of the core group.
        secrets: those that the gateway may use; filled by use.
        config_maps: those that the gateway may use; filled by use.
    """

    secret: Callable[[Key], TlsSecret | None]
    certificates: Callable[[Key], Certificates | None]
    is_granted: Callable[[Referrer, str, Key], bool]
    secrets: set[Key] = field(default_factory=set)
    config_maps: set[Key] = field(default_factory=set)


def of_secret(one: SecretReference, who: Referrer, references: References, reason: str) -> tuple[Key, Verdict | None]:
    """Return the Secret that is referred to, and why it cannot be used; ``None``: it can.

    Args:
        one: the reference.
        who: refers.
        references: how it is resolved.
        reason: of a Secret that is missing or wrong.
    """
    key = (one.namespace or who.namespace, one.name)
    shown = f"Secret {'/'.join(key)}"
    if (one.group, one.kind) not in {("", "Secret"), ("core", "Secret")}:
        return key, Verdict(False, reason, f"{one.group or 'core'}/{one.kind} is no kind of certificates; use a Secret")
    if not references.is_granted(who, "Secret", key):
        return key, Verdict(
            False, "RefNotPermitted", f"no ReferenceGrant lets {who.kind}s of {who.namespace} use {shown}"
        )
    references.secrets.add(key)
    found = references.secret(key)
    fault = "has not been read yet" if found is None else found.fault
    return key, Verdict(False, reason, f"{shown} {fault}") if fault else None


def with_certificates(listener: EdgeListener, given: Iterable[SecretReference], references: References) -> EdgeListener:
    """Return a listener with its certificates; what cannot be used is left out, and the condition says so."""
    who = Referrer(listener.owner_kind, listener.owner[0])
    usable, faults = [], []
    for one in given:
        key, fault = of_secret(one, who, references, "InvalidCertificateRef")
        if fault is None:
            usable.append(key)
            found = references.secret(key)
            if found is not None and found.warning:
                fault = Verdict(False, "InvalidCertificateRef", f"Secret {'/'.join(key)} {found.warning}")
        if fault is not None:
            faults.append(fault)
    if not usable and not faults:
        faults = [Verdict(False, "InvalidCertificateRef", "tls.certificateRefs names no Secret")]
    resolved = faults[0] if faults and listener.resolved.is_true else listener.resolved
    return replace(listener, certificates=tuple(dict.fromkeys(usable)), resolved=resolved)


def with_client_check(
    listener: EdgeListener, given: FrontendValidation, who: Referrer, references: References
) -> EdgeListener:
    """Return a listener that checks certificates of clients; without any root it is refused."""
    roots, faults = [], []
    for one in given.ca_certificate_refs:
        found = _roots(one, who, references)
        if isinstance(found, Verdict):
            faults.append(found)
        else:
            roots.append(found)
    resolved = faults[0] if faults and listener.resolved.is_true else listener.resolved
    demand = Demand.ANYTHING if given.mode is FrontendMode.INSECURE_FALLBACK else Demand.VALID
    check = ClientCheck("".join(roots), demand)
    if roots:
        return replace(listener, clients=check, resolved=resolved)
    why = faults[0].message if faults else "caCertificateRefs names nothing"
    refused = Verdict(False, "NoValidCACertificate", f"clients' certificates cannot be checked: {why}")
    accepted = refused if listener.accepted.is_true else listener.accepted
    return replace(listener, clients=check, accepted=accepted, resolved=resolved)


def _roots(one: ObjectReference, who: Referrer, references: References) -> str | Verdict:
    key = (one.namespace or who.namespace, one.name)
    shown = f"ConfigMap {'/'.join(key)}"
    if one.group not in {"", "core"} or one.kind != "ConfigMap":
        kind = f"{one.group or 'core'}/{one.kind}"
        return Verdict(False, "InvalidCACertificateKind", f"{kind} is no kind of certificates; use a ConfigMap")
    if not references.is_granted(who, "ConfigMap", key):
        return Verdict(False, "RefNotPermitted", f"no ReferenceGrant lets {who.kind}s of {who.namespace} use {shown}")
    references.config_maps.add(key)
    found = references.certificates(key)
    if found is None or not found.pem:
        fault = "has not been read yet" if found is None else found.fault
        return Verdict(False, "InvalidCACertificateRef", f"{shown} {fault}")
    return found.pem
