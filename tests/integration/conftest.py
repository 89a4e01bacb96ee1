"""A small mesh in every combination of address family and capture that its tests cover, and two connected pods."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.capture.pod import PodCapture
from tests.support import backends, ebpf, namespaced
from tests.support.wired import Wired, wired


@pytest.fixture(params=["10.77.0.0/24", "fd77::/64"], ids=["ipv4", "ipv6"])
def subnet(request):
    return request.param


@pytest.fixture(autouse=True)
def hooks() -> Iterator[None]:
    """No test leaves programs at the machine's cgroups: the next one would find them."""
    yield
    if ebpf.uninstall_all():
        ebpf.wait_detached()


@pytest.fixture(params=["nftables", "iptables-legacy", "ebpf"])
async def mesh(request, subnet, tmp_path):
    async with namespaced.mesh(subnet, backend=backends.backend(request.param, tmp_path / "lock").pods) as made:
        yield made


@pytest.fixture(params=backends.NAMES)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> PodCapture:
    return backends.backend(request.param, tmp_path / "lock").pods


@pytest.fixture
def capture(tmp_path: Path) -> PodCapture:
    """Capture by BPF."""
    return backends.backend("ebpf", tmp_path / "lock").pods


@pytest.fixture(params=backends.NETFILTER)
def rules(request: pytest.FixtureRequest, tmp_path: Path) -> PodCapture:
    """The backends that have rules, for tests that remove some."""
    return backends.backend(request.param, tmp_path / "lock").pods


@pytest.fixture
def pods() -> Iterator[Wired]:
    with wired() as made:
        yield made


@pytest.fixture
def space(pods: Wired) -> Iterator[int]:
    """The first of ``pods``, as a descriptor."""
    descriptor = os.open(pods.first, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)
