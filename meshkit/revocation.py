"""Certificate revocation lists in PEM, as an operator hands them in: what the data plane can use, and why not.

Read where they come in (control plane) and where they leave for the data plane (node agent), so that a mistake has one
clear error there and never meets a proxy. What is refused is what the engine, and RFC 5280 at its word, cannot check.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import SignatureAlgorithmOID

_BEGIN: Final = b"-----BEGIN X509 CRL-----"
_BLOCK: Final = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)
_HASHES: Final = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_UNDERSTOOD: Final = (x509.CRLNumber, x509.AuthorityKeyIdentifier, x509.IssuingDistributionPoint)


class BadRevocationLists(ValueError):
    """Something in a bundle of revocation lists cannot be used; then nothing of it is."""


def read(pem: bytes) -> tuple[x509.CertificateRevocationList, ...]:
    """Return the lists of a bundle; none where it is empty. Text around them is skipped, as everywhere in PEM.

    Raises:
        BadRevocationLists: it holds something else, or a list that no proxy could check.
    """
    blocks = _BLOCK.findall(pem)
    if len(blocks) != pem.count(_BEGIN) or (not blocks and pem.strip()):
        raise BadRevocationLists("not PEM with one or more complete blocks X509 CRL")
    return tuple(_read(block, number) for number, block in enumerate(blocks, start=1))


def render(lists: Iterable[x509.CertificateRevocationList]) -> str:
    """Return the lists as PEM, without any other text."""
    return "".join(item.public_bytes(serialization.Encoding.PEM).decode() for item in lists)


def check_issuers(lists: Sequence[x509.CertificateRevocationList], known: Sequence[x509.Certificate]) -> None:
    """Check lists of issuers that are known here; those of others are harmless.

    A list that its issuer did not sign would make every certificate of that issuer unusable.

    Raises:
        BadRevocationLists: names the first.
    """
    for number, item in enumerate(lists, start=1):
        namesakes = [certificate for certificate in known if certificate.subject == item.issuer]
        if not namesakes:
            continue
        signers = [certificate for certificate in namesakes if _is_signed_by(item, certificate)]
        issuer = item.issuer.rfc4514_string()
        if not signers:
            raise BadRevocationLists(f"list {number}: not signed by the key of its issuer {issuer}")
        if not any(_may_sign_lists(certificate) for certificate in signers):
            raise BadRevocationLists(f"list {number}: the key usage of its issuer {issuer} does not allow cRLSign")


def _read(block: bytes, number: int) -> x509.CertificateRevocationList:
    try:
        item = x509.load_pem_x509_crl(block)
        fault = _fault(item)
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
        raise BadRevocationLists(f"list {number}: {error}") from error
    if fault:
        raise BadRevocationLists(f"list {number}: {fault}")
    return item


def _fault(item: x509.CertificateRevocationList) -> str | None:
    if item.next_update_utc is None:
        return "has no nextUpdate"
    if not len(item.extensions):
        return "has no extensions, a CRL number at least: version 1 is not supported"
    is_ed25519 = item.signature_algorithm_oid == SignatureAlgorithmOID.ED25519
    if not is_ed25519 and not isinstance(item.signature_hash_algorithm, _HASHES):
        return "is not signed with SHA-256, SHA-384, SHA-512 or Ed25519"
    return next(filter(None, map(_extension_fault, item.extensions)), None)


def _extension_fault(extension: x509.Extension[x509.ExtensionType]) -> str | None:
    match extension.value:
        case x509.DeltaCRLIndicator():
            return "is a delta list, which is not supported"
        case x509.IssuingDistributionPoint() as point:
            if point.indirect_crl or point.only_some_reasons or point.only_contains_attribute_certs:
                return "is indirect, for some reasons only or for attributes only, which is not supported"
            if point.full_name is None:
                return "has an issuing distribution point without a full name, which is not supported"
    if extension.critical and not isinstance(extension.value, _UNDERSTOOD):
        return f"has the critical extension {extension.oid.dotted_string}, which is not supported"
    return None


def _is_signed_by(item: x509.CertificateRevocationList, certificate: x509.Certificate) -> bool:
    try:
        return item.is_signature_valid(certificate.public_key())  # type: ignore[arg-type]  # others raise
    except (TypeError, UnsupportedAlgorithm):
        return False


def _may_sign_lists(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign
    except x509.ExtensionNotFound:
        return True
