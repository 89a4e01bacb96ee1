"""The product's Python modules, as files."""

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGES: Final = (
    "bench", "controlplane", "meshapi", "meshctl", "meshengine", "meshkit", "meshlab", "meshproxy", "nodeagent",
    "setup", "waypoint", "ztunnel",
)  # fmt: skip


def modules() -> list[Path]:
    """Return all modules, relative to the root, except those that are generated."""
    found = [path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return sorted(path for path in found if "_pb2" not in path.name)
