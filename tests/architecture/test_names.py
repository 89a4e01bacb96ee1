"""Values of ``meshapi/names.py`` are written there only: other modules import them."""

import ast
from pathlib import Path

import pytest

from meshapi import names
from tests.architecture.sources import ROOT, modules

PORTS = range(15000, 15100)
"""Integers outside of it are too common to be told apart from other numbers."""
MIN_LENGTH = 6
"""Shorter strings are words such as ``app``."""


def shared() -> dict[object, str]:
    """The values that are recognisably ours, with their names."""
    return {value: name for name, value in vars(names).items() if name.isupper() and is_distinct(value)}


def is_distinct(value: object) -> bool:
    if isinstance(value, str):
        return len(value) >= MIN_LENGTH and any(mark in value for mark in "./-")
    return isinstance(value, int) and value in PORTS


def repeated(source: str) -> list[str]:
    known = shared()
    constants = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    return [
        f"line {node.lineno}: {node.value!r} is names.{known[node.value]}"
        for node in constants
        if is_distinct(node.value) and node.value in known
    ]


@pytest.mark.parametrize("path", modules(), ids=str)
def test_no_module_repeats_a_value_of_names(path: Path) -> None:
    if path != Path("meshapi/names.py"):
        assert repeated((ROOT / path).read_text()) == []


def test_a_repeated_value_is_found() -> None:
    assert repeated("PORT = 15008") == ["line 1: 15008 is names.HBONE_PORT"]
    assert repeated("LABEL = 'istio.io/dataplane-mode'") == [
        "line 1: 'istio.io/dataplane-mode' is names.DATAPLANE_MODE_LABEL"
    ]
    assert repeated("A, B, C = 8080, 'app', 15099") == []
