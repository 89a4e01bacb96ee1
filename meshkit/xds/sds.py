"""The secret discovery service: both protocol variants on the server's side; secrets as messages on both sides.

Served on a Unix socket whose mode and owner decide who may connect (``serving.serve_unix``).
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
from envoy.config.core.v3 import base_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.message import DecodeError

from meshapi.errors import brief
from meshkit.log import logger
from meshkit.xds import methods
from meshkit.xds.delta import DeltaStream
from meshkit.xds.errors import BadSecret
from meshkit.xds.peer import Observer, Peer, SilentObserver
from meshkit.xds.source import ResourceSource
from meshkit.xds.stream import View
from meshkit.xds.whole import WholeStream

_log = logger("xds.sds")
_LOCAL = "local"
"""The identity of every client: the socket's mode and owner are the authentication."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A workload's certificate chain (leaf first) and private key, both PEM."""

    chain_pem: bytes
    key_pem: bytes

    def encode(self, name: str) -> bytes:
        """Return the serialized secret."""
        certificate = common_pb2.TlsCertificate(
            certificate_chain=base_pb2.DataSource(inline_bytes=self.chain_pem),
            private_key=base_pb2.DataSource(inline_bytes=self.key_pem),
        )
        return bytes(secret_pb2.Secret(name=name, tls_certificate=certificate).SerializeToString(deterministic=True))


@dataclass(frozen=True, slots=True)
class TrustBundle:
    """The roots that peers are checked against, and the revocation lists of their authorities (may be empty); PEM."""

    roots_pem: bytes
    crl_pem: bytes = b""

    def encode(self, name: str) -> bytes:
        """Return the serialized secret."""
        context = common_pb2.CertificateValidationContext(trusted_ca=base_pb2.DataSource(inline_bytes=self.roots_pem))
        if self.crl_pem:
            context.crl.inline_bytes = self.crl_pem
        return bytes(secret_pb2.Secret(name=name, validation_context=context).SerializeToString(deterministic=True))


def decode(body: bytes) -> KeyPair | TrustBundle:
    """Read a serialized secret.

    Raises:
        BadSecret: it is neither a certificate with its key nor a validation context, inline.
    """
    try:
        secret = secret_pb2.Secret.FromString(body)
    except DecodeError as error:
        raise BadSecret(f"not a Secret message: {error}") from error
    if secret.HasField("tls_certificate"):
        pair = secret.tls_certificate
        chain, key = _inline(pair.certificate_chain), _inline(pair.private_key)
        if chain and key:
            return KeyPair(chain, key)
    elif secret.HasField("validation_context"):
        roots = _inline(secret.validation_context.trusted_ca)
        if roots:
            return TrustBundle(roots, _inline(secret.validation_context.crl))
    raise BadSecret(f"secret {brief(secret.name)!r} holds neither an inline certificate with its key nor inline roots")


class SecretDiscovery:
    """Serves the secrets of ``source`` to any process that can open the socket."""

    def __init__(self, source: ResourceSource, observer: Observer | None = None) -> None:
        self._view: View = lambda _: source
        self._observer = observer or LoggingObserver()

    async def DeltaSecrets(
        self,
        request_iterator: AsyncIterator[discovery_pb2.DeltaDiscoveryRequest],
        context: grpc.aio.ServicerContext,
    ) -> None:
        """Serve one delta stream."""
        await DeltaStream(self._view, self._observer, _LOCAL).run(request_iterator, context.write)

    async def StreamSecrets(
        self,
        request_iterator: AsyncIterator[discovery_pb2.DiscoveryRequest],
        context: grpc.aio.ServicerContext,
    ) -> None:
        """Serve one state-of-the-world stream."""
        await WholeStream(self._view, self._observer, _LOCAL).run(request_iterator, context.write)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register with a server that has not been started; there is no polling variant."""
        methods.register(
            server,
            "envoy.service.secret.v3.SecretDiscoveryService",
            whole=("StreamSecrets", self.StreamSecrets),
            delta=("DeltaSecrets", self.DeltaSecrets),
        )


class LoggingObserver(SilentObserver):
    """Logs which secrets a client refuses."""

    def refused(self, peer: Peer, type_url: str, resources: list[str], reason: str) -> None:
        """Log a NACK."""
        _log.warning(
            "secret refused by the client", client=peer.name, type=type_url, names=resources, reason=brief(reason)
        )


def _inline(source: base_pb2.DataSource) -> bytes:
    return bytes(source.inline_bytes) or str(source.inline_string).encode()
