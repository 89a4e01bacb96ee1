"""The engine's copy of names and numbers is the Python side's."""

import re
from pathlib import Path

from meshapi import names

RUST = Path(__file__).parent.parent.parent / "engine" / "crates" / "core" / "src" / "names.rs"


def test_every_constant_of_the_engine_is_ours() -> None:
    found = re.findall(r"pub const (\w+): [&\w\[\]; ]+ = (.+);", RUST.read_text())
    assert len(found) >= 8
    for name, value in found:
        expected = getattr(names, name)
        assert _python(value) == (sorted(expected) if isinstance(expected, frozenset) else expected), name


def _python(value: str) -> object:
    """Evaluate a constant of Rust; names in it are other constants of the file."""
    return eval(value, {name: getattr(names, name) for name in re.findall(r"[A-Z][A-Z_]+", value)})
