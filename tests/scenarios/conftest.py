"""A network namespace for the scenarios: every address of the test's networks is a local one."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshkit.linux import syscalls

NETWORKS = ("10.0.0.0/8", "fd00:10::/64")


@pytest.fixture(scope="module", autouse=True)
def _own_network() -> Iterator[None]:
    """Move this process's main thread, and so all sockets of its event loop, into a namespace of its own.

    Not longer than for these tests: all others of the session are in the namespace of before.
    """
    before = os.open(f"/proc/self/task/{os.getpid()}/ns/net", os.O_RDONLY)
    syscalls.unshare(syscalls.Clone.NEWNET)
    try:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        for network in NETWORKS:
            subprocess.run(["ip", "route", "add", "local", network, "dev", "lo"], check=True)
        # What is bound or called of IPv6 has to be an address, too, and not of a local network only.
        Path("/proc/sys/net/ipv6/ip_nonlocal_bind").write_text("1")
        subprocess.run(["ip", "address", "add", "fd00:10::/128", "dev", "lo", "nodad"], check=True)
        # With thousands of short connections the ports of one address are not enough otherwise.
        Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("10000 65000")
        yield
    finally:
        syscalls.setns(before, syscalls.Clone.NEWNET)
        os.close(before)
