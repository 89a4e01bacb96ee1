"""Generated files are up to date. The message of a failure names the command that regenerates them."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("command", "make"),
    [
        (["setup/proto", "--check"], "make proto"),
        ([sys.executable, "-m", "meshapi.resources.crd", "--check"], "make crds"),
        ([sys.executable, "-m", "setup.reference", "--check"], "make docs"),
    ],
    ids=["proto", "crds", "reference"],
)
def test_generated_files_are_fresh(command: list[str], make: str) -> None:
    environment = {"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, f"run {make}: {done.stderr.decode()}"
