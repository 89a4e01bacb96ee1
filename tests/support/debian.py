"""Programs of Debian's packages, unpacked in the cache: they run from there, and no service is installed."""

import os
import re
import subprocess
from pathlib import Path

from meshlab import cache, programs, run
from meshlab.errors import BuildFailed

_KEPT = 4
_LOG = programs.log("debian")


def unpack(*packages: str) -> Path:
    """Return a folder with the files of packages, and of those that they depend on and this machine lacks.

    Raises:
        BuildFailed: the package sources do not have them; the text says what was tried.
    """
    try:
        return _unpack(packages)
    except BuildFailed:  # nothing was ever fetched, or what is listed has been replaced meanwhile
        run.logged(["apt-get", "update", "-q"], log=_LOG)
        return _unpack(packages)


def environment(root: Path) -> dict[str, str]:
    """Return this process's environment, in which programs of an unpacked folder find their libraries."""
    return {**os.environ, "LD_LIBRARY_PATH": str(root / "usr" / "lib" / "x86_64-linux-gnu")}


def _unpack(packages: tuple[str, ...]) -> Path:
    command = ["apt-get", "install", "-s", "-q", "--no-install-recommends", *packages]
    simulated = subprocess.run(command, capture_output=True, text=True, check=False)
    if simulated.returncode != 0:
        raise BuildFailed(simulated.stderr.strip())
    # "[version]" before the new version: it is installed, and only the packages that were asked for are unpacked then.
    found = re.findall(r"^Inst (\S+) (\[\S+\] )?\((\S+)", simulated.stdout, re.M)
    chosen = {name: f"{name}={version}" for name, held, version in found if not held or name in packages}
    wanted = sorted({**dict(zip(packages, packages, strict=True)), **chosen}.values())

    def make(draft: Path) -> None:
        run.logged(["apt-get", "download", "-q", *wanted], log=_LOG, cwd=draft)
        for archive in list(draft.glob("*.deb")):
            run.logged(["dpkg-deb", "--extract", str(archive), str(draft)], log=_LOG)
            archive.unlink()

    root = cache.obtain("debian", cache.key(*wanted), make)
    cache.prune("debian", keep=_KEPT)
    return root
