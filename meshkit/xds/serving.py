"""Opening gRPC servers: TLS with a certificate that is renewed while serving, and Unix sockets with mode and owner."""

import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import grpc

from meshkit import unix

_OPTIONS = (
    # Two servers on one port would share its clients without a word; the second one must fail instead.
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Istio's ztunnel pings every 30 s whether or not there are calls; gRPC's default would call that abuse.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
    # After a restart a thousand clients call at the same moment and are served a few at a time; gRPC would cancel those
    # that wait for half a minute, and they would only come again.
    ("grpc.server_max_unrequested_time_in_server", 600),
    # A client that comes back lists the names and versions that it holds: some 85 bytes each.
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    ("grpc.max_send_message_length", 200 * 1024 * 1024),
)
_GRACE_S = 1.0


class Service(Protocol):
    """A service that can be registered."""

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register with a server that has not been started."""
        ...


@dataclass(frozen=True, slots=True)
class ServingCertificate:
    """A server's certificate chain and key, both PEM."""

    chain_pem: bytes
    key_pem: bytes


@asynccontextmanager
async def serve_tls(
    address: str, certificate: Callable[[], ServingCertificate], services: Sequence[Service]
) -> AsyncIterator[int]:
    """Serve over TLS while the context is open; yields the port.

    ``certificate`` is called at every handshake, so a renewed one is used at once. It is called on gRPC's own thread
    and must only hand out what is ready.

    Raises:
        OSError: the address cannot be bound.
    """

    def configuration() -> grpc.ServerCertificateConfiguration:
        current = certificate()
        return grpc.ssl_server_certificate_configuration([(current.key_pem, current.chain_pem)])

    server = grpc.aio.server(options=_OPTIONS)
    for service in services:
        service.add_to(server)
    credentials = grpc.dynamic_ssl_server_credentials(configuration(), configuration, False)
    port = _bind(lambda: server.add_secure_port(address, credentials), address)
    await server.start()
    try:
        yield port
    finally:
        await server.stop(_GRACE_S)


@asynccontextmanager
async def serve_unix(
    path: Path, services: Sequence[Service], *, mode: int = 0o600, owner: tuple[int, int] | None = None
) -> AsyncIterator[None]:
    """Serve on a Unix socket while the context is open; ``owner`` is a user and a group id.

    See ``meshkit.unix`` for how it gets its place.

    Raises:
        OSError: the folder is missing, something else than a socket is in the way, or the socket cannot be bound.
    """
    hidden = unix.claim(path)
    server = grpc.aio.server(options=_OPTIONS)
    for service in services:
        service.add_to(server)
    before = os.umask(0o177)
    try:
        _bind(lambda: server.add_insecure_port(f"unix:{hidden}"), str(path))
        await server.start()
    finally:
        os.umask(before)
    inode = unix.publish(hidden, path, mode, owner)
    with unix.published(path, inode):
        try:
            yield
        finally:
            await server.stop(_GRACE_S)


def _bind(bind: Callable[[], int], address: str) -> int:
    try:
        port = bind()
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: {error}") from error
    if port == 0:
        raise OSError(f"cannot listen on {address}")
    return port


def reachable(path: Path) -> bool:
    """Return whether a process listens on a Unix socket. Does not block."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        return probe.connect_ex(str(path)) == 0
