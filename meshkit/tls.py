"""TLS of servers whose certificate is renewed while they serve."""

import os
import ssl
from collections.abc import Callable

from meshkit.xds.serving import ServingCertificate


def server_context(certificate: Callable[[], ServingCertificate]) -> ssl.SSLContext:
    """Return a context that presents what ``certificate`` returns at each handshake.

    Clients prove nothing. TLS 1.2 and later.
    """
    outer = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    used: tuple[ServingCertificate, ssl.SSLContext] | None = None

    def choose(connection: ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
        nonlocal used
        wanted = certificate()
        if used is None or used[0] is not wanted:
            used = (wanted, _with(wanted))
        connection.context = used[1]

    outer.sni_callback = choose
    return outer


def _with(certificate: ServingCertificate) -> ssl.SSLContext:
    """Return a context with a certificate. The library reads files only; this one is in memory."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    descriptor = os.memfd_create("certificate")
    try:
        os.write(descriptor, certificate.chain_pem + certificate.key_pem)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    return context
