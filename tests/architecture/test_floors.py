"""Threat ``library-floors``: known vulnerabilities of dependencies: no locked version is older than the one that
fixed a published vulnerability.

Where an advisory of 2026 is listed, the floor is the version that was locked when it was read, with the fix; an older
version may have it too, but has not been checked.
"""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

CRATES = {
    # Rapid reset and its kin, CONTINUATION, empty DATA: RUSTSEC-2023-0034, 2024-0003, 2024-0332, 2026-0258.
    "h2": "0.4.20",
    # Acceptor panic and endless loop: RUSTSEC-2024-0336, 2024-0399.
    "rustls": "0.23.18",
    # Name constraints, revocation scope, panic on malformed CRL: RUSTSEC-2026-0049, 0098, 0099, 0104.
    "rustls-webpki": "0.103.16",
    # Certificate names and CRLs: RUSTSEC-2026-0044, 0048.
    "aws-lc-rs": "1.19.0",
    # Overflow in reserve: RUSTSEC-2026-0007.
    "bytes": "1.12.1",
    # Broadcast channel unsoundness: RUSTSEC-2025-0023.
    "tokio": "1.44.2",
    # RUSTSEC-2024-0378, 2025-0020, 2026-0013, 2026-0176, 2026-0177.
    "pyo3": "0.30.1",
    # Depth of messages: RUSTSEC-2020-0002.
    "prost": "0.6.1",
}
PYTHON = {
    # Request smuggling and header parsing in the servers of our pages.
    "aiohttp": "3.14.5",
    # Statically linked OpenSSL, names in certificates.
    "cryptography": "50.0.2",
    # HTTP/2 rapid reset in the core: 1.58.
    "grpcio": "1.58.0",
    # Recursion in nested messages: CVE-2025-4565, CVE-2026-0994.
    "protobuf": "7.36.2",
}


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


@pytest.mark.parametrize("lock", ["engine/Cargo.lock", "engine/fuzz/Cargo.lock"])
@pytest.mark.parametrize("crate", CRATES)
def test_no_crate_is_older_than_its_fixed_version(lock: str, crate: str) -> None:
    packages = tomllib.loads((ROOT / lock).read_text())["package"]
    locked = [one["version"] for one in packages if one["name"] == crate]
    if lock.startswith("engine/fuzz") and not locked:
        return  # the fuzz targets do without Python
    assert locked, f"{crate} is no longer locked: take it off the list"
    assert min(map(numbers, locked)) >= numbers(CRATES[crate])


@pytest.mark.parametrize("package", PYTHON)
def test_no_python_package_is_older_than_its_fixed_version(package: str) -> None:
    locked = re.search(rf"^{package}==(\S+)", (ROOT / "setup" / "requirements.txt").read_text(), re.MULTILINE)
    assert locked is not None, f"{package} is no longer locked: take it off the list"
    assert numbers(locked[1]) >= numbers(PYTHON[package])
