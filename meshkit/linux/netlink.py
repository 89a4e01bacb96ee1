"""Opening the kernel's routing netlink, with errors that say what was meant."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from pyroute2 import IPRoute, NetlinkError


@contextmanager
def opened(what: str = "netlink") -> Iterator[IPRoute]:
    """Open it in the thread's network namespace.

    Raises:
        OSError: the kernel refuses something; the text begins with ``what``.
    """
    try:
        with IPRoute() as netlink:
            yield netlink
    except NetlinkError as error:
        raise OSError(error.code, f"{what}: {os.strerror(error.code)}") from error
