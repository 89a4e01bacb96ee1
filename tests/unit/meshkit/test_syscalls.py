"""System calls that need no privileges."""

import os
from pathlib import Path

import pytest

from meshkit.linux import syscalls


def test_absolute_links_stay_inside_the_root(tmp_path: Path) -> None:
    """A node's /var/run is a link to /run; followed from a container it led into the container's own /run."""
    (tmp_path / "run" / "netns").mkdir(parents=True)
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "run").symlink_to("/run")
    (tmp_path / "run" / "netns" / "cni-1").write_text("the node's")
    descriptor = syscalls.open_in_root(tmp_path, "/var/run/netns/cni-1")
    with os.fdopen(descriptor) as file:
        assert file.read() == "the node's"


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="/var/run/netns/gone"):
        syscalls.open_in_root(tmp_path, "/var/run/netns/gone")
