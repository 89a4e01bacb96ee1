"""What is in a Secret that a gateway uses: a certificate with its key, roots, revocation lists. Pure.

Keys are those of Kubernetes (``tls.crt``, ``tls.key``, ``ca.crt``, ``ca.crl``), or Istio's generic ones (``cert``,
``key``, ``cacert``, ``crl``), which go first. Source: Istio's ``pilot/pkg/credentials/kube/secrets.go``.
"""

import base64
import binascii
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from controlplane.inputs.sources import TlsSecret
from meshkit.kube import Json

_PAIRS: Final = (("cert", "key"), ("tls.crt", "tls.key"))
_ROOTS: Final = (("cacert", "crl"), ("ca.crt", "ca.crl"))
_MAX_BYTES: Final = 64 * 1024
_LEAST_RSA_BITS: Final = 2048
"""Envoy takes no shorter ones."""
_PEM: Final = Encoding.PEM


@dataclass(frozen=True, slots=True)
class Read:
    """What a Secret holds, and until when its certificate is valid."""

    secret: TlsSecret
    until: datetime | None = None

    def at(self, now: datetime) -> TlsSecret:
        """Return what is in it, with a warning if its certificate has expired."""
        if self.until is None or now < self.until:
            return self.secret
        return replace(self.secret, warning=f"has a certificate that expired at {self.until:%Y-%m-%d %H:%M} UTC")


MISSING: Final = Read(TlsSecret(fault="does not exist", roots_fault="does not exist", is_there=False))


class _Bad(ValueError):
    """A value cannot be used; the text says why, as what the Secret has."""


def read(secret: Json) -> Read:
    """Return what is in a Secret, checked as far as Envoy checks it."""
    data = secret.get("data") or {}
    try:
        found = _pair(data)
    except _Bad as error:
        found = Read(TlsSecret(fault=str(error)))
    try:
        roots, revoked = _roots(data)
    except _Bad as error:
        return replace(found, secret=replace(found.secret, roots_fault=str(error)))
    return replace(found, secret=replace(found.secret, roots=roots, revoked=revoked))


def _pair(data: Json) -> Read:
    chain, key = next((names for names in _PAIRS if all(data.get(name) for name in names)), _PAIRS[-1])
    return _checked(chain, _value(data, chain), key, _value(data, key))


def _roots(data: Json) -> tuple[str, str]:
    """Return roots and revocation lists."""
    name, revoked = next((names for names in _ROOTS if data.get(names[0])), _ROOTS[-1])
    try:
        found = x509.load_pem_x509_certificates(_value(data, name))
    except ValueError as error:
        raise error if isinstance(error, _Bad) else _Bad(f"has no certificate in {name}: {error}") from None
    pem = "".join(one.public_bytes(_PEM).decode() for one in found)
    if not data.get(revoked):
        return pem, ""
    return pem, _lists(revoked, _value(data, revoked))


def _lists(name: str, given: bytes) -> str:
    end = b"-----END X509 CRL-----"
    try:
        found = [x509.load_pem_x509_crl(part + end) for part in given.split(end)[:-1]]
    except ValueError as error:
        raise _Bad(f"has no revocation list in {name}: {error}") from None
    if not found:
        raise _Bad(f"has no revocation list in {name}")
    return "".join(one.public_bytes(_PEM).decode() for one in found)


def _value(data: Json, name: str) -> bytes:
    found = data.get(name)
    if not isinstance(found, str) or not found:
        raise _Bad(f"has no key {name}")
    if len(found) > _MAX_BYTES:
        raise _Bad(f"has more than {_MAX_BYTES // 1024} kB in {name}")
    try:
        return base64.b64decode(found, validate=True)
    except binascii.Error:
        raise _Bad(f"has no base64 in {name}") from None


def _checked(chain_name: str, chain: bytes, key_name: str, key: bytes) -> Read:
    try:
        certificates = x509.load_pem_x509_certificates(chain)
    except ValueError as error:
        raise _Bad(f"has no certificate in {chain_name}: {error}") from None
    try:
        private = load_pem_private_key(key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _Bad(f"has no usable private key in {key_name}") from None
    if isinstance(private, rsa.RSAPrivateKey):
        if private.key_size < _LEAST_RSA_BITS:
            raise _Bad(f"has an RSA key of {private.key_size} bits; {_LEAST_RSA_BITS} are needed")
    elif not isinstance(private, ec.EllipticCurvePrivateKey):
        raise _Bad("has a key that is neither RSA nor ECDSA")
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if certificates[0].public_key().public_bytes(*form) != private.public_key().public_bytes(*form):
        raise _Bad(f"has a private key that is not the one of the certificate in {chain_name}")
    text = "".join(one.public_bytes(_PEM).decode() for one in certificates)
    return Read(TlsSecret(text, key.decode()), certificates[0].not_valid_after_utc)
