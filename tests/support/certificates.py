"""Certificates that no authority of a mesh would issue."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

PEM = serialization.Encoding.PEM


@dataclass
class Issuer:
    """A certificate that signs others, and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def root(cls) -> "Issuer":
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("root")
        return cls(_sign(name, name, key.public_key(), key, ca=True), key)

    def intermediate(self, number: int) -> "Issuer":
        key = ec.generate_private_key(ec.SECP256R1())
        made = _sign(_name(f"intermediate-{number}"), self.certificate.subject, key.public_key(), self.key, ca=True)
        return Issuer(made, key)

    def leaf(
        self,
        names: Sequence[x509.GeneralName],
        *,
        usages: Sequence[ObjectIdentifier] = (ExtendedKeyUsageOID.CLIENT_AUTH,),
        started: datetime.timedelta = datetime.timedelta(minutes=-1),
        life: datetime.timedelta = datetime.timedelta(hours=1),
    ) -> tuple[bytes, bytes]:
        """Certificate and key, PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        signed = _sign(
            x509.Name([]), self.certificate.subject, key.public_key(), self.key, ca=False, names=names, usages=usages,
            started=started, life=life,
        )  # fmt: skip
        private = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return signed.public_bytes(PEM), private

    def revoking(
        self,
        *serials: int,
        key: ec.EllipticCurvePrivateKey | None = None,
        next_update: datetime.datetime = datetime.datetime(2049, 1, 1, tzinfo=datetime.UTC),
        extensions: Sequence[x509.ExtensionType] = (x509.CRLNumber(1),),
    ) -> bytes:
        """A revocation list, PEM; with ``key``, another key signs it in this issuer's name."""
        long_ago = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.certificate.subject)
        builder = builder.last_update(long_ago).next_update(next_update)
        for serial in serials:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(long_ago).build()
            builder = builder.add_revoked_certificate(entry)
        for extension in extensions:
            builder = builder.add_extension(extension, critical=not isinstance(extension, x509.CRLNumber))
        return builder.sign(key or self.key, hashes.SHA256()).public_bytes(PEM)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(PEM)


class IssuesAs:
    """An authority for a mesh of tests that signs with a given issuer."""

    def __init__(self, issuer: Issuer) -> None:
        self.issuer = issuer
        self.serials: dict[str, int] = {}
        """Of the last certificate of each identity."""

    @property
    def roots(self) -> bytes:
        return self.issuer.pem

    def issue(self, uri: str, *, life: datetime.timedelta = datetime.timedelta(hours=1)) -> tuple[bytes, bytes]:
        both = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)
        chain, key = self.issuer.leaf([x509.UniformResourceIdentifier(uri)], usages=both, life=life)
        self.serials[uri] = x509.load_pem_x509_certificate(chain).serial_number
        return chain, key


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _sign(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePrivateKey,
    *,
    ca: bool,
    names: Sequence[x509.GeneralName] = (),
    usages: Sequence[ObjectIdentifier] = (),
    started: datetime.timedelta = datetime.timedelta(minutes=-1),
    life: datetime.timedelta = datetime.timedelta(hours=1),
) -> x509.Certificate:
    start = datetime.datetime.now(datetime.UTC) + started
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + life)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(list(names)), critical=True)
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(list(usages)), critical=False)
    return builder.sign(signer, hashes.SHA256())
