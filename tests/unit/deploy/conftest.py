"""Helm, and the chart's objects with its defaults."""

from pathlib import Path

import pytest

from meshlab import programs
from tests.support.chart import Objects, template


@pytest.fixture(scope="session")
def helm() -> Path:
    return programs.helm(print) / "helm"


@pytest.fixture(scope="session")
def objects(helm: Path) -> Objects:
    return template(helm)
