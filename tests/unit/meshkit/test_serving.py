"""Opening gRPC servers."""

import pytest

from meshkit.xds import serving
from tests.support.authority import TestAuthority


async def test_a_port_that_another_server_has_is_refused() -> None:
    """gRPC's default would let both listen, and clients would meet one or the other."""
    chain, key = TestAuthority().issue("spiffe://cluster.local/ns/a/sa/b")
    certificate = serving.ServingCertificate(chain, key)
    async with serving.serve_tls("127.0.0.1:0", lambda: certificate, []) as port:
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
            async with serving.serve_tls(f"127.0.0.1:{port}", lambda: certificate, []):
                pass
