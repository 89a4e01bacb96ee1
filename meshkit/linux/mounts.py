"""What is mounted, read from the kernel's table (``proc_pid_mountinfo(5)``)."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Mounted:
    """One line of the table.

    Attributes:
        root: folder of the file system that is seen here; a namespace for what binds one.
        target: where.
        kind: file system type.
        source: device or name.
        super_options: options of the file system.
    """

    root: str
    target: Path
    kind: str
    source: str
    super_options: str


def mounted(table: Path = Path("/proc/self/mountinfo")) -> tuple[Mounted, ...]:
    """Return what is mounted in the mount namespace of ``table``, in the kernel's order."""
    return tuple(parse(line) for line in table.read_text().splitlines())


def parse(line: str) -> Mounted:
    """Read one line of mountinfo."""
    before, _, after = line.partition(" - ")
    left, right = before.split(" "), after.split(" ")
    return Mounted(
        root=_unescape(left[3]),
        target=Path(_unescape(left[4])),
        kind=right[0],
        source=_unescape(right[1]),
        super_options=right[2],
    )


def _unescape(text: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text
