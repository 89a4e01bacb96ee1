"""The Helm chart: where it is, what it holds, and running Helm on it.

The chart lies beside the packages, in a source tree as in an installed wheel.
"""

import asyncio
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import yaml

from meshctl.session import CommandError
from meshkit.kube import Json

RELEASE: Final = "culvert"
_CHARTS: Final = Path(__file__).parent.parent / "deploy" / "helm"


def folder() -> Path:
    """Return the chart's folder.

    Raises:
        CommandError: it was not installed with the command.
    """
    return _folder("culvert", ", or give --chart")


def gateway_folder() -> Path:
    """Return the folder of the chart of gateways; raises as ``folder`` does."""
    return _folder("gateway", "")


def _folder(name: str, hint: str) -> Path:
    found = _CHARTS / name
    if not (found / "Chart.yaml").is_file():
        raise CommandError(f"the chart is missing at {found}; install the package culvert again{hint}")
    return found


def definitions(chart: Path) -> list[Json]:
    """Return the chart's custom resource definitions."""
    files = sorted((chart / "crds").glob("*.yaml"))
    return [item for file in files for item in yaml.safe_load_all(file.read_text()) if item]


def find_helm(given: Path | None) -> Path:
    """Return the program.

    Raises:
        CommandError: there is none.
    """
    if given is not None:
        if not os.access(given, os.X_OK) or given.is_dir():
            raise CommandError(f"--helm: {given} is not a program")
        return given
    found = shutil.which("helm")
    if found is None:
        raise CommandError("helm is not on the PATH; install Helm 3, or name the program with --helm")
    return Path(found)


async def helm(
    program: Path, arguments: Sequence[str], *, kubeconfig: Path | None, context: str | None, given: str = ""
) -> str:
    """Run Helm and return what it prints; ``given`` is what it reads.

    Raises:
        CommandError: it failed; the text is Helm's own last words.
    """
    access = [f"--kubeconfig={kubeconfig}"] if kubeconfig else []
    access += [f"--kube-context={context}"] if context else []
    process = await asyncio.create_subprocess_exec(
        program,
        *arguments,
        *access,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate(given.encode())
    if process.returncode != 0:
        said = err.decode(errors="replace").strip().removeprefix("Error: ")
        raise CommandError(f"helm {arguments[0]}: {said or f'ended with status {process.returncode}'}")
    return out.decode(errors="replace")
