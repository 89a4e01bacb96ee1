"""Memory of this process, after a start that needed more than what follows."""

import ctypes
import gc


def settle() -> None:
    """Take what is held now out of searches for cycles, and give what has been freed back to the kernel.

    Without it, tens of megabytes stay resident that were used once: the C library's heap shrinks only from its end
    (``malloc_trim(3)``; nothing is given back with another C library than GNU's).
    """
    gc.collect()
    gc.freeze()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
