"""Rollouts and scaling of a waypoint, a gateway and of what is behind them fail no request and cut no stream.

The long form is ``python -m bench.rollouts``.
"""

from collections.abc import Iterator

import pytest

from bench.rollouts.cluster import AT_GATEWAY, CHANGES, NS, Report, Rollouts, image
from meshlab import lab
from meshlab.progress import Progress
from tests.support.mesh import Mesh

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def rollouts(mesh: Mesh) -> Iterator[Rollouts]:
    lab.load_images(mesh.lab.name, [image(Progress().say)])
    found = Rollouts(mesh)
    found.deploy()
    yield found
    mesh.lab.kubectl("delete", "namespace", NS, "--wait=false")


def test_nothing_fails(rollouts: Rollouts) -> None:
    with rollouts.load() as running:
        for change in CHANGES.values():
            change(rollouts)
    check(running.report())


def test_nothing_fails_at_a_gateway(rollouts: Rollouts) -> None:
    rollouts.publish()
    with rollouts.load(gateway=True) as running:
        for change in AT_GATEWAY.values():
            change(rollouts)
    check(running.report())


def check(found: Report) -> None:
    assert found.failures == [], str(found)
    assert found.requests > 100
    assert found.streams > 4
    assert found.sockets > 2
