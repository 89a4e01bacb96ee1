"""Keeps the certificates that gateways refer to, out of Secrets.

Each Secret that a listener may use is watched by itself: a watch of all would bring every Secret of the cluster, keys
included, into the control plane's memory. Secrets that no gateway may use are never requested.
"""

import asyncio
import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, NoReturn

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from controlplane.followers import Followers
from controlplane.gateways.collections import Gateways
from controlplane.inputs.sources import Inputs, TlsSecret
from meshkit.kube import Client, Informer, Json, Key, Selection, kinds
from meshkit.tasks import background

_CHAIN: Final = "tls.crt"
_KEY: Final = "tls.key"
_LOOK_S: Final = 60.0
"""How often it is looked whether a certificate has expired."""
_MAX_BYTES: Final = 64 * 1024
_LEAST_RSA_BITS: Final = 2048
"""Envoy takes no shorter ones."""


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


class GatewaySecrets:
    """Reads what is wanted. Construct, then ``run`` as a task.

    Args:
        inputs: where certificates are put.
        gateways: which Secrets are wanted.
        touch: is called when certificates have changed.
        client: an open client.
        now: the present time.
    """

    def __init__(
        self,
        inputs: Inputs,
        gateways: Gateways,
        touch: Callable[[str], None],
        client: Client,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._inputs = inputs
        self._gateways = gateways
        self._touch = touch
        self._client = client
        self._now = now
        self._followers = Followers(self._wanted, self._follow, lambda gone: self._put(gone, None))
        gateways.known.add_handler(self._followers.changed)

    async def run(self) -> NoReturn:
        """Follow until cancelled."""
        await self._followers.run()

    def pending(self) -> set[Key]:
        """Return the Secrets that have not been read yet."""
        return {key for key in self._wanted() if self._inputs.secrets.find(key) is None}

    def _wanted(self) -> set[Key]:
        return {key for gateway in self._gateways.known for key in gateway.secrets}

    async def _follow(self, key: Key) -> NoReturn:
        selection = Selection(namespace=key[0], fields=f"metadata.name={key[1]}")
        informer = Informer(self._client, kinds.SECRET, read, selection=selection)
        async with background() as tasks:
            tasks.start(informer.run())
            await informer.wait_synced()
            informer.add_handler(lambda _, new: self._put(key, new or _MISSING))
            while True:
                self._put(key, informer.find(key[1], key[0]) or _MISSING)
                await asyncio.sleep(_LOOK_S)
        raise AssertionError("unreachable")

    def _put(self, key: Key, found: Read | None) -> None:
        secret = None if found is None else found.at(self._now())
        if self._inputs.secrets.find(key) != secret:
            self._inputs.secrets.set(key, secret)
            self._touch("secret")


_MISSING: Final = Read(TlsSecret(fault="does not exist"))


def read(secret: Json) -> Read:
    """Return the certificate and the key in a Secret, checked as far as Envoy checks them."""
    parts = []
    for name in (_CHAIN, _KEY):
        found = (secret.get("data") or {}).get(name)
        if not isinstance(found, str) or not found:
            return Read(TlsSecret(fault=f"has no key {name}"))
        if len(found) > _MAX_BYTES:
            return Read(TlsSecret(fault=f"has more than {_MAX_BYTES // 1024} kB in {name}"))
        try:
            parts.append(base64.b64decode(found, validate=True))
        except binascii.Error:
            return Read(TlsSecret(fault=f"has no base64 in {name}"))
    return _checked(*parts)


def _checked(chain: bytes, key: bytes) -> Read:
    try:
        certificates = x509.load_pem_x509_certificates(chain)
    except ValueError as error:
        return Read(TlsSecret(fault=f"has no certificate in {_CHAIN}: {error}"))
    try:
        private = load_pem_private_key(key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return Read(TlsSecret(fault=f"has no usable private key in {_KEY}"))
    if isinstance(private, rsa.RSAPrivateKey):
        if private.key_size < _LEAST_RSA_BITS:
            return Read(TlsSecret(fault=f"has an RSA key of {private.key_size} bits; {_LEAST_RSA_BITS} are needed"))
    elif not isinstance(private, ec.EllipticCurvePrivateKey):
        return Read(TlsSecret(fault="has a key that is neither RSA nor ECDSA"))
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if certificates[0].public_key().public_bytes(*form) != private.public_key().public_bytes(*form):
        return Read(TlsSecret(fault=f"has a private key that is not the one of the certificate in {_CHAIN}"))
    text = "".join(one.public_bytes(Encoding.PEM).decode() for one in certificates)
    return Read(TlsSecret(text, key.decode()), certificates[0].not_valid_after_utc)
