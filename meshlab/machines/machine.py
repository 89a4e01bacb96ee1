"""What the cluster knows of a machine: files can be written, programs run and services started on it.

It does not know what a machine is made of: namespaces of this computer, or a virtual machine with its own kernel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Service:
    """A program that keeps running.

    Attributes:
        name: names its log, and is its name on the command line.
        argv: absolute path of the program, and its arguments.
        environment: on top of a minimal one.
    """

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class File:
    """A file to be written on a machine."""

    path: str
    content: bytes
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class Output:
    """A program's output and exit status."""

    status: int
    text: str


class Machine(Protocol):
    """A booted machine. All methods block."""

    @property
    def name(self) -> str:
        """Host name."""
        ...

    def write(self, files: Sequence[File]) -> None:
        """Write files, with the folders above them."""
        ...

    def provide(self, path: Path) -> None:
        """Make a file or folder of this computer's cache readable on the machine, at the same path.

        What is there already is taken for the same: a path in the cache names its content.
        """
        ...

    def link(self, folder: str, targets: Sequence[str]) -> None:
        """Put symbolic links to ``targets`` into a folder, under their own names."""
        ...

    def run(self, argv: Sequence[str], *, timeout_s: float = 60.0) -> Output:
        """Run a program to its end; standard output and error come together."""
        ...

    def start(self, service: Service) -> None:
        """Start a service; its output goes to ``log(service.name)``."""
        ...

    def running(self) -> Mapping[str, bool]:
        """Say which of the started services are still there."""
        ...

    def log(self, service: str) -> Path:
        """Return the log file of a service, on this computer: as it is now, where it is a copy."""
        ...

    def command(self, argv: Sequence[str]) -> list[str]:
        """Return the command line that runs ``argv`` on the machine from a terminal of this computer."""
        ...
