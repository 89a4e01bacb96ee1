"""What the kernel says when it refuses something, and a limit of older ones."""

import platform
import resource
from collections.abc import Iterator
from contextlib import contextmanager
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
def lift_memory_limit() -> str:
    """Let BPF maps and programs be of any size: before Linux 5.11 they are locked memory, of which a process has 64 kB.

    Without the right to do so (CAP_SYS_RESOURCE), small ones still fit, and the kernel refuses others.

    Returns:
        What to say of a refusal; empty: memory is not the reason.
    """
    everything = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, everything)
    except (OSError, ValueError):
        major, minor, *_ = platform.release().split(".")
        is_locked = (int(major), int(minor)) < (5, 11)
        return "; before Linux 5.11 it needs nodeAgent.extraCapabilities={SYS_RESOURCE}" if is_locked else ""
    return ""


def first_line(error: OSError) -> str:
    """Return the first line of an error: the verifier and nftables add the place in their input."""
    return str(error).partition("\n")[0]
