"""What gateways get over SDS: certificates of their listeners, and the roots of their clients' certificates.

A gateway gets what its own listeners use, and nothing else.
"""

from collections.abc import Callable, Iterable

from envoy.extensions.transport_sockets.tls.v3 import secret_pb2

from controlplane.envoy import transport
from controlplane.gateways.listener import EdgeGateway
from controlplane.inputs.sources import TlsSecret
from meshkit.kube import Key


def of_gateway(gateway: EdgeGateway, secret: Callable[[Key], TlsSecret | None]) -> Iterable[secret_pb2.Secret]:
    """Yield the secrets of a gateway.

    Args:
        gateway: the gateway.
        secret: returns what is in a Secret.
    """
    wanted = {key for one in gateway.served for key in one.certificates}
    if gateway.client_certificate is not None:
        wanted.add(gateway.client_certificate)
    for key in sorted(wanted):
        found = secret(key)
        if found is not None and found.chain:
            yield secret_pb2.Secret(name=transport.secret_name(key), tls_certificate=transport.certificate(found))
    checks = [(one.port, one.clients) for one in gateway.served if one.clients is not None]
    for key in sorted({check.secret for _, check in checks if check.secret is not None}):
        found = secret(key)
        if found is not None and found.roots:
            name = transport.secret_roots_name(key)
            yield secret_pb2.Secret(name=name, validation_context=transport.roots(found.roots, found.revoked))
    inline = {port: check for port, check in checks if check.roots}
    for port, check in sorted(inline.items()):
        yield secret_pb2.Secret(
            name=transport.client_roots_name(gateway.key, port), validation_context=transport.client_validation(check)
        )
