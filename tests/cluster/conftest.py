"""One lab for all tests of a session; set CULVERT_KEEP_LAB to keep it for the next."""

from collections.abc import Iterator

import pytest

from meshlab import images, lab
from meshlab.progress import Progress
from tests.support.lab import Lab, running


@pytest.fixture(scope="session")
def cluster() -> Iterator[Lab]:
    with running("test", nodes=2) as found:
        yield found


@pytest.fixture(scope="session")
def samples(cluster: Lab) -> Lab:
    """The lab, with the samples' image on its nodes."""
    progress = Progress()
    lab.load_images(cluster.name, [images.samples(progress.say)])
    return cluster
