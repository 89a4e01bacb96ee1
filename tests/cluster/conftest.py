"""One lab for all tests of a session; CULVERT_KEEP_LAB keeps it for the next, CULVERT_TEST_LAB names another."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from meshlab import images, lab
from meshlab.progress import Progress
from tests.support.lab import ROOT, Lab, install, running
from tests.support.mesh import Mesh

PROGRAMS = {
    "test_network_policy": "kube_router",
    "test_prometheus": "prometheus",
    "test_task_pages": "fortio",
    "test_opentelemetry_collector": "opentelemetry_collector",
    "test_h2spec": "h2spec",
}
"""Modules of tests, in their order, to what they build (``meshlab.programs``)."""


@pytest.fixture(scope="session", autouse=True)
def programs_ahead(request: pytest.FixtureRequest) -> Iterator[None]:
    """Build what later tests run, with the processor time that tests leave: mostly they wait for a cluster."""
    modules = {Path(item.path).stem for item in request.session.items}
    wanted = [program for module, program in PROGRAMS.items() if module in modules]
    code = f"from meshlab import programs\nfor name in {wanted}: getattr(programs, name)(print)"
    command = ["nice", "-n", "19", sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL) as building:
        yield
        with suppress(ProcessLookupError):
            os.killpg(building.pid, signal.SIGTERM)


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
