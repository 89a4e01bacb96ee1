"""Which cases of the tests are run inside the machine; a plugin of the inner pytest.

nftables, which is taken where it works, is tried with every case; ways to flush some of the rules, which know no
version of IP, with one. Of the two ways of iptables one is tried with IPv4 and the other with IPv6, with the plans that
have most rules, and with the flush of everything. The backend ebpf is tried like these, and by `make vm` with every
case; where the kernel lacks what it needs, its cases are skipped and say so.
"""

import os
import platform
from collections.abc import Mapping

import pytest

from tests.support import backends

THOROUGH = "CULVERT_VM_EVERY_CASE"
"""Environment variable: 1 for every case of the backend ebpf."""
LACKS = "the kernel lacks "
"""How the reason of a skip begins that is a claim about the kernel."""
NO_EBPF = f"{LACKS}namespace cookies (Linux 5.14), which the backend ebpf needs"
EBPF_ONLY = ("test_ebpf_", "test_direct")
"""How the names of modules begin that are about the backend ebpf."""
_IN_PART = {"iptables-nft": "ipv4", "iptables-legacy": "ipv6", "ebpf": "ipv6"}
_PLANS = {"capture", "excluded", "dns"}
_EVERYTHING = "everything"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [item for item in items if not _is_wanted(_parameters(item))]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
    if platform.release().startswith("5.10."):
        for item in items:
            if _is_about_ebpf(item):
                item.add_marker(pytest.mark.skip(NO_EBPF))


def _is_wanted(parameters: Mapping[str, object]) -> bool:
    way = next((str(value) for value in parameters.values() if value in backends.NAMES), "")
    family = _family(parameters)
    flush = parameters.get("flush", _EVERYTHING)
    if way not in _IN_PART or (way == "ebpf" and os.environ.get(THOROUGH) == "1"):
        return flush == _EVERYTHING or family != "ipv4"
    if {"before", "after"} <= parameters.keys():  # from one way to another
        return True
    return family in {"", _IN_PART[way]} and flush == _EVERYTHING and parameters.get("scenario", "dns") in _PLANS


def _is_about_ebpf(item: pytest.Item) -> bool:
    return item.path.name.startswith(EBPF_ONLY) or "ebpf" in _parameters(item).values()


def _family(parameters: Mapping[str, object]) -> str:
    """Return the version of IP that a case is about; nothing where it is about both."""
    for name in ("server", "subnet"):
        if name in parameters:
            return "ipv6" if ":" in str(parameters[name]) else "ipv4"
    return {0: "ipv4", 1: "ipv6"}[int(str(parameters["here"]))] if "here" in parameters else ""


def _parameters(item: pytest.Item) -> Mapping[str, object]:
    callspec = getattr(item, "callspec", None)
    return callspec.params if callspec else {}
