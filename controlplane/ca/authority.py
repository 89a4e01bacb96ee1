"""Keys and certificates: the signing certificate, self-made roots, leaves. Pure: time is passed in, nothing is stored.

Leaves (SPIFFE X509-SVID, sections 4 and 5): no subject, the identity as only URI name, marked critical; not a CA;
for both ends of TLS. Their life starts a little in the past, for peers whose clocks are behind, and never outlasts
the signing certificate's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from controlplane.ca.errors import BadAuthority, BadRequest
from meshapi import names

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

_BACKDATE: Final = timedelta(minutes=2)
_CURVES: Final = (ec.SECP256R1, ec.SECP384R1)
_MIN_RSA_BITS: Final = 2048
_MAX_RSA_BITS: Final = 8192
"""Larger keys only cost everybody time at every handshake."""
_MAX_CSR_CHARACTERS: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class Authority:
    """A signing certificate with its key, and what connects it to the roots.

    Attributes:
        certificate: signs leaves.
        key: its key.
        intermediates_pem: from the signing certificate up to below the root; empty when the root itself signs.
        roots_pem: what peers trust; may hold several.
    """

    certificate: x509.Certificate
    key: PrivateKey
    intermediates_pem: tuple[str, ...]
    roots_pem: str

    @classmethod
    def load(cls, *, certificate_pem: bytes, key_pem: bytes, chain_pem: bytes = b"", roots_pem: bytes = b"") -> Self:
        """Read an authority from PEM; without roots the signing certificate is its own.

        Raises:
            BadAuthority: something cannot be read, does not fit together, or may not sign.
        """
        certificate = _certificates("ca-cert.pem", certificate_pem)[0]
        roots = _certificates(names.ROOT_CERT_KEY, roots_pem or certificate_pem)
        try:
            key = serialization.load_pem_private_key(key_pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise BadAuthority(f"ca-key.pem: not an unencrypted private key: {error}") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
            raise BadAuthority("ca-key.pem: only EC and RSA keys can sign here")
        if key.public_key() != certificate.public_key():
            raise BadAuthority("ca-key.pem: not the key of ca-cert.pem")
        if not _may_sign(certificate):
            raise BadAuthority("ca-cert.pem: not a CA certificate; it needs the basic constraint CA:TRUE")
        above = _certificates("cert-chain.pem", chain_pem) if chain_pem.strip() else []
        chain = [item for item in above if item not in roots]
        if certificate not in roots and certificate not in chain:
            chain.insert(0, certificate)
        return cls(
            certificate=certificate,
            key=key,
            intermediates_pem=tuple(_pem(item) for item in chain),
            roots_pem="".join(_pem(item) for item in roots),
        )

    def with_roots(self, more_pem: Sequence[str]) -> Self:
        """Return the authority with further roots, which were checked before, each once."""
        own = x509.load_pem_x509_certificates(self.roots_pem.encode())
        more = [item for text in more_pem for item in x509.load_pem_x509_certificates(text.encode())]
        return replace(self, roots_pem="".join(_pem(item) for item in dict.fromkeys([*own, *more])))

    @property
    def expires(self) -> datetime:
        """When the signing certificate ends."""
        return self.certificate.not_valid_after_utc

    @property
    def authorities(self) -> list[x509.Certificate]:
        """The signing certificate and all above it."""
        above = "".join((*self.intermediates_pem, self.roots_pem))
        return [self.certificate, *x509.load_pem_x509_certificates(above.encode())]

    @property
    def roots_expire(self) -> datetime:
        """When the first root ends."""
        roots = x509.load_pem_x509_certificates(self.roots_pem.encode())
        return min(root.not_valid_after_utc for root in roots)

    def issue(
        self, public_key: PublicKey, *, uri: str, dns_names: Sequence[str] = (), now: datetime, life: timedelta
    ) -> list[str]:
        """Sign a leaf; return the chain as PEM, leaf first, roots last.

        Raises:
            BadAuthority: the signing certificate has expired.
        """
        end = min(now + life, self.expires)
        if end <= now:
            raise BadAuthority(f"the signing certificate expired at {self.expires:%Y-%m-%dT%H:%M:%SZ}; renew it")
        alternative = [x509.UniformResourceIdentifier(uri), *(x509.DNSName(name) for name in dns_names)]
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        is_rsa = isinstance(public_key, rsa.RSAPublicKey)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.certificate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(max(now - _BACKDATE, self.certificate.not_valid_before_utc))
            .not_valid_after(end)
            .add_extension(x509.SubjectAlternativeName(alternative), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True, key_encipherment=is_rsa), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(_authority_key_identifier(self.certificate), critical=False)
        )
        leaf = builder.sign(self.key, hashes.SHA256())
        return [_pem(leaf), *self.intermediates_pem, self.roots_pem]


def self_signed(*, trust_domain: str, now: datetime, life: timedelta) -> tuple[bytes, bytes]:
    """Return a new P-256 root certificate and its key, both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, trust_domain)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + life)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _pem(certificate).encode(), key_pem(key)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key as unencrypted PKCS #8 PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def requested_key(csr_pem: str) -> PublicKey:
    """Return the public key of a certificate request; names in it are not looked at.

    Raises:
        BadRequest: it cannot be read, is not signed by its own key, or the key is too weak.
    """
    if len(csr_pem) > _MAX_CSR_CHARACTERS:
        raise BadRequest(f"the request is longer than {_MAX_CSR_CHARACTERS} characters")
    try:
        csr = x509.load_pem_x509_csr(csr_pem.encode())
        key = csr.public_key()
        signed = csr.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise BadRequest(f"not a certificate request in PEM: {error}") from error
    if not signed:
        raise BadRequest("the request is not signed by the key in it")
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES):
        return key
    if isinstance(key, rsa.RSAPublicKey) and _MIN_RSA_BITS <= key.key_size <= _MAX_RSA_BITS:
        return key
    raise BadRequest("the key must be EC on P-256 or P-384, or RSA with 2048 to 8192 bits")


def _certificates(name: str, pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise BadAuthority(f"{name}: no certificate in PEM: {error}") from error


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _may_sign(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _authority_key_identifier(certificate: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        held = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(held)
    except x509.ExtensionNotFound:
        key = certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey)  # checked when the authority was loaded
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)


def _usage(
    *,
    digital_signature: bool = False,
    key_encipherment: bool = False,
    key_cert_sign: bool = False,
    crl_sign: bool = False,
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=key_encipherment,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )
