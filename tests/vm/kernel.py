"""Debian's kernels for machines in clouds: unpacked in the cache, booted from there, never installed.

The version is the newest that Debian has for that release now, so each update of Debian's is tried.
"""

import os
import platform
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from meshlab import cache, programs, run
from meshlab.errors import BuildFailed

_SERIES = {"bullseye": "5.10.", "bookworm": "6.1.", "trixie": "6.12."}
DEBIAN = os.environ.get("CULVERT_VM_DEBIAN", "bookworm")
"""Code name of the release."""
_NEWEST = "linux-image-cloud-amd64"
"""An empty package that depends on the newest of its kind."""
_KEPT = 4
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

    @property
    def sources(self) -> Path:
        """Folder of its headers, for ``/usr/src``, to which links beside the modules lead."""
        return self.root / "usr" / "src"


def series() -> str:
    """Return how the releases of the kernel begin.

    Raises:
        BuildFailed: ``CULVERT_VM_DEBIAN`` names no release that is known.
    """
    if DEBIAN not in _SERIES:
        raise BuildFailed(f"CULVERT_VM_DEBIAN is {DEBIAN}: use one of {', '.join(_SERIES)}")
    return _SERIES[DEBIAN]


def is_older_than(major: int, minor: int) -> bool:
    """Return whether the kernel is older than a version of Linux."""
    found = series().split(".")
    return (int(found[0]), int(found[1])) < (major, minor)


def obtain() -> Kernel:
    """Return the kernel, after it has been downloaded if it was not there.

    Raises:
        BuildFailed: the package sources do not have it; the text says what was tried.
    """
    series()  # fails before anything is downloaded
    with _sources() as options:
        try:
            return _obtain(options)
        except BuildFailed:  # nothing was ever fetched, or what is listed has been replaced meanwhile
            run.logged(["apt-get", *options, "update", "-q"], log=_LOG)
            return _obtain(options)


@contextmanager
def _sources() -> Iterator[list[str]]:
    """Yield apt's options for the release's packages: none on the same release.

    On another release, the host's sources are used with the other release's name, with package lists of their own.
    """
    own = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    if own == DEBIAN:
        yield []
        return
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME) $(COMPONENT)", "Created-By: Packages"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    sources = {tuple(line.split()) for line in listed}
    with TemporaryDirectory(prefix="apt") as folder:
        place = Path(folder)
        (place / "lists" / "partial").mkdir(parents=True)
        lines = (
            f"deb {uri} {codename.replace(own, DEBIAN)} {component}\n"
            for uri, codename, component in sorted(sources)
            if codename in {own, f"{own}-security"}
        )
        (place / "sources.list").write_text("".join(lines))
        settings = {
            "Dir::Etc::SourceList": place / "sources.list",
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::State::Lists": place / "lists",
            "Dir::Cache": place / "cache",
        }
        yield [f"-o{key}={value}" for key, value in settings.items()]


def _obtain(options: list[str]) -> Kernel:
    package, version = _newest(options)
    release = package.removeprefix("linux-image-")

    def make(draft: Path) -> None:
        wanted = [f"{name}={version}" for name in (package, *_headers(options, release))]
        run.logged(["apt-get", *options, "download", "-q", *wanted], log=_LOG, cwd=draft)
        for archive in list(draft.glob("*.deb")):
            run.logged(["dpkg-deb", "--extract", str(archive), str(draft)], log=_LOG)
            archive.unlink()
        if not (draft / "lib").exists():  # since Debian 13
            (draft / "usr" / "lib").rename(draft / "lib")
        if compressed := list(draft.glob("lib/modules/**/*.ko.xz")):
            run.logged(["unxz", *map(str, compressed)], log=_LOG)
        run.logged(["depmod", "--basedir", str(draft), release], log=_LOG)

    root = cache.obtain("kernel", cache.key(package, version, "with headers"), make)
    cache.prune("kernel", keep=_KEPT)
    return Kernel(release, root / "boot" / f"vmlinuz-{release}", root)


def _headers(options: list[str], release: str) -> tuple[str, str]:
    """Return the packages of a kernel's headers: those of its configuration, and those that it shares with others."""
    package = f"linux-headers-{release}"
    text = subprocess.run(
        ["apt-cache", *options, "depends", package], capture_output=True, text=True, check=False
    ).stdout
    shared = re.search(r"Depends: (linux-headers-\S+-common)$", text, re.MULTILINE)
    if shared is None:
        raise BuildFailed(f"{package} of {DEBIAN} is not in the package sources")
    return package, shared[1]


def _newest(options: list[str]) -> tuple[str, str]:
    """Return the package, and its version."""
    query = ["apt-cache", *options, "show", "--no-all-versions", _NEWEST]
    text = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    found = re.search(r"^Depends:.*\b(linux-image-\S+) \(= ([^)]+)\)", text, re.MULTILINE)
    if found is None or not found[2].startswith(series()):
        had = found[2] if found else "none"
        raise BuildFailed(f"{_NEWEST} {series()}x of {DEBIAN} is not in the package sources (there is {had})")
    return found[1], found[2]
