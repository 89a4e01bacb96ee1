"""Keeps what DestinationRules name by ``tls.credentialName``: certificates and roots for TLS that proxies begin.

The Secret is in the proxy's own namespace, and that proxy alone gets it. Each is watched by itself, and only while a
DestinationRule of a proxy there names it.
"""

import asyncio
import base64
import binascii
from collections.abc import Callable
from typing import Final, NoReturn

from cryptography import x509

from controlplane import gateway_secrets
from controlplane.envoy.credentials import Credentials
from controlplane.followers import Followers
from controlplane.inputs.sources import ClientCredential, Inputs
from meshkit.kube import Client, Informer, Json, Key, Selection, kinds
from meshkit.tasks import background

_CHAIN: Final = ("tls.crt", "cert")
_PRIVATE_KEY: Final = ("tls.key", "key")
_ROOTS: Final = ("ca.crt", "cacert")
_REVOKED: Final = ("ca.crl", "crl")
"""Keys of a Secret of type ``kubernetes.io/tls``, and those that Istio takes besides."""
_MAX_BYTES: Final = 256 * 1024


class ClientCredentials:
    """Reads what is wanted. Construct, then ``run`` as a task.

    Args:
        inputs: where the contents are put.
        credentials: which Secrets are wanted.
        touch: is called when contents have changed.
        client: an open client.
    """

    def __init__(self, inputs: Inputs, credentials: Credentials, touch: Callable[[str], None], client: Client) -> None:
        self._inputs = inputs
        self._credentials = credentials
        self._touch = touch
        self._client = client
        self._followers = Followers(credentials.wanted, self._follow, lambda gone: self._put(gone, None))
        credentials.on_change(self._followers.changed)

    async def run(self) -> NoReturn:
        """Follow until cancelled."""
        await self._followers.run()

    def pending(self) -> set[Key]:
        """Return the Secrets that have not been read yet."""
        return {key for key in self._credentials.wanted() if self._inputs.credentials.find(key) is None}

    async def _follow(self, key: Key) -> NoReturn:
        selection = Selection(namespace=key[0], fields=f"metadata.name={key[1]}")
        informer = Informer(self._client, kinds.SECRET, read, selection=selection)
        async with background() as tasks:
            tasks.start(informer.run())
            await informer.wait_synced()
            informer.add_handler(lambda _, new: self._put(key, new or MISSING))
            self._put(key, informer.find(key[1], key[0]) or MISSING)
            await asyncio.Event().wait()
        raise AssertionError("unreachable")

    def _put(self, key: Key, found: ClientCredential | None) -> None:
        if self._inputs.credentials.find(key) != found:
            self._inputs.credentials.set(key, found)
            self._touch("secret")


MISSING: Final = ClientCredential(fault="does not exist", roots_fault="does not exist")


def read(secret: Json) -> ClientCredential:
    """Return what a Secret holds, checked as far as Envoy checks it."""
    data = secret.get("data") or {}
    named = {names[0]: _first(data, names) for names in (_CHAIN, _PRIVATE_KEY)}
    pair = gateway_secrets.read({"data": {name: value for name, value in named.items() if value}}).secret
    roots, fault = _certificates(_first(data, _ROOTS))
    revoked, crl_fault = _lists(_first(data, _REVOKED))
    return ClientCredential(
        chain=pair.chain,
        key=pair.key,
        roots="" if crl_fault else roots,
        revoked=revoked,
        fault=pair.fault,
        roots_fault=fault or crl_fault,
    )


def _first(data: Json, names: tuple[str, ...]) -> str:
    return next((str(data[name]) for name in names if data.get(name)), "")


def _certificates(encoded: str) -> tuple[str, str]:
    """Return roots as PEM, and why there are none."""
    if not encoded:
        return "", f"has no key {_ROOTS[0]}"
    text = _decoded(encoded)
    if text is None:
        return "", f"has no base64 of at most {_MAX_BYTES // 1024} kB in {_ROOTS[0]}"
    try:
        x509.load_pem_x509_certificates(text.encode())
    except ValueError as error:
        return "", f"has no certificate in {_ROOTS[0]}: {error}"
    return text, ""


def _lists(encoded: str) -> tuple[str, str]:
    """Return a revocation list as PEM, and what is wrong with it; one that is not there is fine."""
    if not encoded:
        return "", ""
    text = _decoded(encoded)
    try:
        x509.load_pem_x509_crl((text or "").encode())
    except ValueError:
        return "", f"has no revocation list in {_REVOKED[0]}"
    return text or "", ""


def _decoded(encoded: str) -> str | None:
    if len(encoded) > _MAX_BYTES:
        return None
    try:
        return base64.b64decode(encoded, validate=True).decode("ascii")
    except (binascii.Error, UnicodeDecodeError):
        return None
