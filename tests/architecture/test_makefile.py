"""What `make` does does not depend on what its caller has activated."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_the_engine_is_installed_into_this_clones_environment() -> None:
    caller = {**os.environ, "VIRTUAL_ENV": "/elsewhere", "CONDA_PREFIX": "/conda"}
    show = ["make", "--no-print-directory", "--eval=show:; @echo $$VIRTUAL_ENV $${CONDA_PREFIX:-none}", "show"]
    shown = subprocess.run(show, cwd=ROOT, env=caller, capture_output=True, text=True, check=True)
    assert shown.stdout.split() == [str(ROOT / ".venv"), "none"]


def test_every_folder_of_tests_is_run() -> None:
    lines = (ROOT / "Makefile").read_text().splitlines()
    run = {word for line in lines if line.startswith(("ALONE :=", "BESIDE :=")) for word in line.split()[2:]}
    found = {f"tests/{file.relative_to(ROOT / 'tests').parts[0]}" for file in (ROOT / "tests").rglob("test_*.py")}
    assert run == found
