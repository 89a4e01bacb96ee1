"""What is installed with us."""

from collections import defaultdict
from importlib.metadata import distributions

SHARED_ON_PURPOSE = {"envoy/__init__.py"}
"""Of Envoy's definitions and of Envoy's program, which only tests use: without content that matters."""


def test_no_two_packages_write_the_same_file() -> None:
    """Which of the two is there, is decided by the order of installation, which differs from machine to machine."""
    contents: dict[str, dict[str, str]] = defaultdict(dict)
    for distribution in distributions():
        for file in distribution.files or ():
            if file.hash is not None:
                contents[str(file)][distribution.metadata["Name"]] = file.hash.value
    differ = {file: sorted(owners) for file, owners in contents.items() if len(set(owners.values())) > 1}
    assert {file: owners for file, owners in differ.items() if file not in SHARED_ON_PURPOSE} == {}
