"""A certificate authority for tests: real keys, real chains."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from controlplane.ca import authority

PEM = serialization.Encoding.PEM


class IssuesCertificates(Protocol):
    """What a test mesh needs of a CA."""

    @property
    def roots(self) -> bytes: ...

    def issue(self, uri: str, *, life: timedelta = ...) -> tuple[bytes, bytes]: ...


class TestAuthority:
    """Issues certificates for SPIFFE identities."""

    __test__ = False

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "tests")])
        now = datetime.now(UTC)
        self._root = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def roots(self) -> bytes:
        return self._root.public_bytes(PEM)

    def issue(self, uri: str, *, life: timedelta = timedelta(hours=1)) -> tuple[bytes, bytes]:
        """Return chain and key (PKCS#8), PEM."""
        return self._issue([x509.UniformResourceIdentifier(uri)], life)

    def issue_for_hosts(self, *hosts: str, life: timedelta = timedelta(hours=1)) -> tuple[bytes, bytes]:
        """Return chain and key of a server outside of the mesh."""
        return self._issue([x509.DNSName(host) for host in hosts], life)

    def revocation_list(self, *chains: bytes) -> bytes:
        """Return the list of revoked certificates, PEM."""
        now = datetime.now(UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self._root.subject)
        builder = builder.last_update(now - timedelta(minutes=1)).next_update(now + timedelta(days=1))
        for chain in chains:
            number = x509.load_pem_x509_certificate(chain).serial_number
            one = x509.RevokedCertificateBuilder().serial_number(number).revocation_date(now)
            builder = builder.add_revoked_certificate(one.build())
        return builder.sign(self._key, hashes.SHA256()).public_bytes(PEM)

    def _issue(self, alternative_names: Sequence[x509.GeneralName], life: timedelta) -> tuple[bytes, bytes]:
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        leaf = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self._root.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=1))
            .not_valid_after(now + life)
            .add_extension(x509.SubjectAlternativeName(alternative_names), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        private = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return leaf.public_bytes(PEM), private


class ProductAuthority:
    """The same for the control plane's own code: its root, its certificates. Makes a root, or takes over one."""

    def __init__(self, root: tuple[bytes, bytes] | None = None) -> None:
        self._root, key = root or authority.self_signed(
            trust_domain="tests", now=datetime.now(UTC), life=timedelta(days=1)
        )
        self._signer = authority.Authority.load(certificate_pem=self._root, key_pem=key)

    @property
    def roots(self) -> bytes:
        return self._root

    def issue(self, uri: str, *, life: timedelta = timedelta(hours=1)) -> tuple[bytes, bytes]:
        key = ec.generate_private_key(ec.SECP256R1())
        chain = self._signer.issue(key.public_key(), uri=uri, now=datetime.now(UTC), life=life)
        # As the node agent does: the root is not part of what is presented.
        presented = [part for part in chain if part.encode().strip() != self._root.strip()]
        return "".join(presented).encode(), authority.key_pem(key)
