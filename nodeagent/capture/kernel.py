"""What the kernel says when it refuses something, and a limit of older ones."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache

from meshengine.bpf import KernelUnsupported


@contextmanager
def refusals(about: str = "") -> Iterator[None]:
    """Raise ``KernelUnsupported`` of the engine as ``OSError``; the text begins with ``about``, if that is given."""
    try:
        yield
    except KernelUnsupported as error:
        raise OSError(f"{about}: {error}" if about else str(error)) from error


@cache
def lift_memory_limit() -> None:
    """Let BPF maps and programs be of any size: before Linux 5.11 they are locked memory, of which a process has 64 kB.

    Without the right to do so (CAP_SYS_RESOURCE), small ones still fit, and the kernel refuses others.
    """
    everything = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, everything)


def first_line(error: OSError) -> str:
    """Return the first line of an error: the verifier and nftables add the place in their input."""
    return str(error).partition("\n")[0]
