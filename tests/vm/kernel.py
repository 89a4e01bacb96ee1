"""Debian's kernel for machines in clouds: unpacked in the cache, booted from there, never installed.

Its version is the one that this computer's package sources have now, so each update of Debian's is tried.
"""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from meshlab import cache, programs, run
from meshlab.errors import BuildFailed

SERIES = "6.1."
_NEWEST = "linux-image-cloud-amd64"
"""An empty package that depends on the newest of its kind."""
_KEPT = 2
_LOG = programs.log("kernel")


@dataclass(frozen=True, slots=True)
class Kernel:
    """An unpacked kernel.

    Attributes:
        release: as ``uname -r`` says it.
        image: to boot.
        root: the folder that has its ``lib/modules``.
    """

    release: str
    image: Path
    root: Path

    @property
    def modules(self) -> Path:
        """Folder of the modules of every release, for ``/lib/modules``."""
        return self.root / "lib" / "modules"


def obtain() -> Kernel:
    """Return the kernel, after it has been downloaded if it was not there.

    Raises:
        BuildFailed: the package sources do not have it; the text says what was tried.
    """
    try:
        return _obtain(*_newest())
    except BuildFailed:  # nothing was ever fetched, or what is listed has been replaced meanwhile
        run.logged(["apt-get", "update", "-q"], log=_LOG)
        return _obtain(*_newest())


def _obtain(package: str, version: str) -> Kernel:
    release = package.removeprefix("linux-image-")

    def make(draft: Path) -> None:
        run.logged(["apt-get", "download", "-q", f"{package}={version}"], log=_LOG, cwd=draft)
        (archive,) = draft.glob("*.deb")
        run.logged(["dpkg-deb", "--extract", str(archive), str(draft)], log=_LOG)
        run.logged(["depmod", "--basedir", str(draft), release], log=_LOG)
        archive.unlink()

    root = cache.obtain("kernel", cache.key(package, version), make)
    cache.prune("kernel", keep=_KEPT)
    return Kernel(release, root / "boot" / f"vmlinuz-{release}", root)


def _newest() -> tuple[str, str]:
    """Return the package, and its version."""
    query = ["apt-cache", "show", "--no-all-versions", _NEWEST]
    text = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    found = re.search(r"^Depends:.*\b(linux-image-\S+) \(= ([^)]+)\)", text, re.MULTILINE)
    if found is None or not found[2].startswith(SERIES):
        had = found[2] if found else "none"
        raise BuildFailed(f"{_NEWEST} {SERIES}x is not in the package sources (there is {had}): use those of Debian 12")
    return found[1], found[2]
