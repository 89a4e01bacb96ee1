"""The first files of the machine: busybox, the modules that it takes to see the host's files, and the first scripts.

The format is cpio's ("newc": see the kernel's driver-api/early-userspace/buffer-format), uncompressed.
"""

import stat
import subprocess
from pathlib import Path

from tests.support.lab import ROOT
from tests.vm.kernel import Kernel

GUEST = Path(__file__).parent / "guest"
_MOUNTS = ROOT / "setup" / "node-mounts"
_MODULES = ("virtio_pci", "virtiofs", "overlay")
_BUSYBOX = Path("/bin/busybox")
_FOLDERS = ("bin", "dev", "proc", "sys", "modules")
_CONSOLE = (5, 1)


def build(kernel: Kernel) -> bytes:
    """Return the archive."""
    archive = bytearray()
    for folder in _FOLDERS:
        _add(archive, folder, stat.S_IFDIR | 0o755)
    _add(archive, "dev/console", stat.S_IFCHR | 0o600, device=_CONSOLE)
    _add(archive, "bin/busybox", stat.S_IFREG | 0o755, _BUSYBOX.read_bytes())
    for script in (GUEST / "init", GUEST / "main", _MOUNTS):
        _add(archive, script.name, stat.S_IFREG | 0o755, script.read_bytes())
    for number, path in enumerate(_modules(kernel)):
        _add(archive, f"modules/{number:02}-{path.name}", stat.S_IFREG | 0o644, path.read_bytes())
    _add(archive, "TRAILER!!!", 0)
    return bytes(archive)


def _modules(kernel: Kernel) -> list[Path]:
    """Return the files of the modules and of what they need, in the order in which they can be loaded."""
    command = ["modprobe", f"--dirname={kernel.root}", f"--set-version={kernel.release}", "--show-depends", "--all"]
    listed = subprocess.run([*command, *_MODULES], capture_output=True, text=True, check=True).stdout
    lines = (line.split() for line in listed.splitlines())
    return [Path(path) for path in dict.fromkeys(words[1] for words in lines if words[0] == "insmod")]


def _add(archive: bytearray, name: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
    path = name.encode() + b"\0"
    owner, links, time, place, check = (0, 0), 1, 0, (0, 0), 0
    fields = (len(archive) + 1, mode, *owner, links, time, len(content), *place, *device, len(path), check)
    for piece in (b"070701" + b"".join(b"%08x" % field for field in fields) + path, content):
        archive += piece
        archive += bytes(-len(archive) % 4)
