"""Keys, certificate requests, and reading what the authority answers. Pure but for the random numbers of a key."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.utils import CryptographyDeprecationWarning

from meshapi.errors import DataError
from meshapi.identity import SpiffeId

_UNREADABLE = (
    ValueError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
    CryptographyDeprecationWarning,
)
"""What the library raises for a certificate that is none, or none that it knows; they have no common root."""


class BadCertificate(DataError):
    """The authority's answer cannot be used."""


@dataclass(frozen=True, slots=True)
class Request:
    """A certificate request (PEM) and its private key (PEM, PKCS#8)."""

    csr_pem: str
    key_pem: bytes


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its key, ready to be served.

    Attributes:
        chain_pem: leaf first, without the roots.
        key_pem: PKCS#8.
        roots_pem: the trust bundle that came with it.
        not_before: start of validity, UTC.
        not_after: end of validity, UTC.
    """

    chain_pem: bytes
    key_pem: bytes
    roots_pem: bytes
    not_before: datetime
    not_after: datetime


def make_request(identity: SpiffeId) -> Request:
    """Make a P-256 key and a request with an empty subject and the identity as its only (critical) name.

    Source: RFC 5280 section 4.2.1.6 (an empty subject makes the alternative name critical); SPIFFE X509-SVID.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(identity))])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(names, critical=True)
    csr = builder.sign(key, hashes.SHA256())
    return Request(
        csr_pem=csr.public_bytes(serialization.Encoding.PEM).decode(),
        key_pem=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )


def read_answer(identity: SpiffeId, request: Request, chain: Sequence[str]) -> Issued:
    """Check the authority's answer: leaf first, roots last, for us and for our key.

    Raises:
        BadCertificate: it is for another identity, lacks roots, or cannot be parsed.
    """
    if len(chain) < 2:
        raise BadCertificate(
            f"the authority's answer for {identity} has {len(chain)} part(s); a leaf and roots are needed"
        )
    try:
        with warnings.catch_warnings():
            # What the library only warns of today, such as a negative serial number, other readers refuse already.
            warnings.simplefilter("error", CryptographyDeprecationWarning)
            leaf = x509.load_pem_x509_certificate(chain[0].encode())
            roots = x509.load_pem_x509_certificates(chain[-1].encode())
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        certified = leaf.public_key()
    except _UNREADABLE as error:
        raise BadCertificate(f"the authority's answer for {identity} cannot be read: {error}") from error
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if uris[:1] != [str(identity)]:
        raise BadCertificate(f"the authority answered for {uris[:1]}, not for {identity}")
    key = serialization.load_pem_private_key(request.key_pem, password=None)
    if certified != key.public_key():
        raise BadCertificate(f"the authority certified another key for {identity}")
    parts = [part.strip() + "\n" for part in chain[:-1]]
    return Issued(
        chain_pem="".join(parts).encode(),
        key_pem=request.key_pem,
        roots_pem=b"".join(root.public_bytes(serialization.Encoding.PEM) for root in roots),
        not_before=leaf.not_valid_before_utc,
        not_after=leaf.not_valid_after_utc,
    )
