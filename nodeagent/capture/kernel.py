"""What the kernel says when it refuses something."""

from collections.abc import Iterator
from contextlib import contextmanager

from meshengine.bpf import KernelUnsupported


@contextmanager
def refusals(about: str = "") -> Iterator[None]:
    """Raise ``KernelUnsupported`` of the engine as ``OSError``; the text begins with ``about``, if that is given."""
    try:
        yield
    except KernelUnsupported as error:
        raise OSError(f"{about}: {error}" if about else str(error)) from error


def first_line(error: OSError) -> str:
    """Return the first line of an error: the verifier and nftables add the place in their input."""
    return str(error).partition("\n")[0]
