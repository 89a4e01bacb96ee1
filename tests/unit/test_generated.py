"""Generated files are up to date. The message of a failure names the command that regenerates them."""

import shutil
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
        ([sys.executable, "-m", "setup.gateway_api", "--check"], "make crds"),
        ([sys.executable, "-m", "setup.reference", "--check"], "make docs"),
    ],
    ids=["proto", "crds", "gateway-api", "reference"],
)
def test_generated_files_are_fresh(command: list[str], make: str) -> None:
    go = Path(shutil.which("go") or "/usr/bin/go").parent
    environment = {"PYTHON": sys.executable, "PATH": f"/usr/bin:/bin:{go}", "HOME": str(Path.home())}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, f"run {make}: {done.stderr.decode()}"
