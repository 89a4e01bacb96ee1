"""A small mesh in every combination of address family and capture that its tests shall hold for."""

import pytest

from tests.support import backends, namespaced


@pytest.fixture(params=["10.77.0.0/24", "fd77::/64"], ids=["ipv4", "ipv6"])
def subnet(request):
    return request.param


@pytest.fixture(params=["nftables", "iptables-legacy"])
async def mesh(request, subnet, tmp_path):
    async with namespaced.mesh(subnet, backend=backends.backend(request.param, tmp_path / "lock")) as made:
        yield made
