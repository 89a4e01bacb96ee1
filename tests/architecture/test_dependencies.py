"""What is linked into the engine: licences and sources, by ``engine/deny.toml`` (which cargo-deny reads too)."""

import json
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import license_expression
import pytest

ENGINE = Path(__file__).parent.parent.parent / "engine"


@pytest.fixture(scope="module")
def packages() -> list[dict[str, Any]]:
    command = ["cargo", "metadata", "--format-version=1", "--locked", f"--manifest-path={ENGINE / 'Cargo.toml'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout)["packages"]
    return found


def permits(expression: Any, allowed: set[str]) -> bool:
    """Whether an SPDX expression can be satisfied with the allowed licences."""
    if isinstance(expression, license_expression.LicenseSymbol | license_expression.LicenseWithExceptionSymbol):
        return str(expression.key if hasattr(expression, "key") else expression) in allowed
    some = any if expression.operator.strip() == "OR" else all
    return some(permits(part, allowed) for part in expression.args)


def test_every_licence_is_allowed(packages: list[dict[str, Any]]) -> None:
    allowed = set(tomllib.loads((ENGINE / "deny.toml").read_text())["licenses"]["allow"])
    licensing = license_expression.get_spdx_licensing()
    refused = {}
    for package in packages:
        text = package["license"].replace("/", " OR ")
        if not permits(licensing.parse(text), allowed):
            refused[package["name"]] = text
    assert refused == {}


def test_a_licence_that_is_not_allowed_is_noticed() -> None:
    licensing = license_expression.get_spdx_licensing()
    assert not permits(licensing.parse("MIT AND GPL-3.0-only"), {"MIT"})
    assert permits(licensing.parse("MIT OR GPL-3.0-only"), {"MIT"})


def test_every_source_is_a_registry_or_ourselves(packages: list[dict[str, Any]]) -> None:
    sources = {package["source"] for package in packages if package["source"] is not None}
    assert all(source.startswith("registry+") for source in sources), sources
