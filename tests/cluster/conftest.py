"""One lab for all tests of a session; CULVERT_KEEP_LAB keeps it for the next, CULVERT_TEST_LAB names another."""

import os
from collections.abc import Iterator

import pytest

from meshlab import images, lab
from meshlab.progress import Progress
from tests.support.lab import Lab, install, running
from tests.support.mesh import Mesh


@pytest.fixture(scope="session")
def cluster() -> Iterator[Lab]:
    with running(os.environ.get("CULVERT_TEST_LAB", "test"), nodes=2) as found:
        yield found


@pytest.fixture(scope="session")
def samples(cluster: Lab) -> Lab:
    """The lab, with the samples' image on its nodes."""
    progress = Progress()
    lab.load_images(cluster.name, [images.samples(progress.say)])
    return cluster


@pytest.fixture(scope="session")
def mesh(samples: Lab) -> Mesh:
    """The lab with Culvert installed, as users install it."""
    install(samples)
    installed = Mesh(samples)
    installed.ready()
    return installed
