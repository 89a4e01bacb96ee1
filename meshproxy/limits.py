"""What the kernel lets this process hold, and how much of it one workload may have."""

import resource
from typing import Final

from meshkit.log import logger

_SHARE: Final = 4
"""One workload may have a quarter of the descriptors, so that it takes several that flood to shut others out."""

_log = logger("limits")


def raise_descriptors() -> int:
    """Allow this process all the descriptors it may have; return how many.

    Container runtimes begin with 1,024, which a few hundred connections use up.
    """
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed != most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


def connections_per_workload(wanted: int, descriptors: int) -> int:
    """Return how many connections one workload may have: ``wanted``, or less where descriptors are scarce."""
    bound = max(1, min(wanted, descriptors // _SHARE))
    if bound < wanted:
        _log.info("connections of one workload are bounded by descriptors", bound=bound, descriptors=descriptors)
    return bound
