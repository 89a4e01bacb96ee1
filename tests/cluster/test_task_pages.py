"""The pages of ``docs/tasks`` are executed, and print what they say."""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshapi import names
from meshlab import addons, lab
from meshlab.progress import Progress
from tests.support import pages
from tests.support.lab import install
from tests.support.mesh import Mesh

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]  # with the build of MetalLB

PAGES = sorted(path.stem for path in pages.FOLDER.glob("*.md") if path.stem != "README")
OF_THEIR_OWN = {"plugin-ca": "test_install.py"}
"""Pages that begin in a cluster without Culvert, and where they are executed."""


@pytest.fixture(scope="module")
def cluster_with_addresses(mesh: Mesh) -> Mesh:
    for addon in ("metallb", "fortio"):
        lab.add(mesh.lab.name, addon, addons.named(addon), progress=Progress())
    install(mesh.lab, "--set", "profile=demo")
    return mesh


@pytest.fixture
def environment(cluster_with_addresses: Mesh, tmp_path: Path) -> Iterator[dict[str, str]]:
    """A shell's: pages change the namespace of its kubeconfig."""
    own = tmp_path / "kubeconfig"
    shutil.copy(cluster_with_addresses.lab.kubeconfig, own)
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    yield {**os.environ, "KUBECONFIG": str(own), "PATH": programs}


def commands(name: str) -> str:
    return (pages.FOLDER / f"{name}.md").read_text()


@pytest.mark.parametrize("name", [name for name in PAGES if name not in OF_THEIR_OWN])
def test_page(name: str, cluster_with_addresses: Mesh, environment: dict[str, str], tmp_path: Path) -> None:
    page = pages.steps(commands(name))
    try:
        pages.execute(page, environment, tmp_path)
    finally:
        for step in page:
            if made := re.match(r"kubectl create namespace (\S+)", step.command):
                cluster_with_addresses.lab.kubectl("delete", "namespace", made[1], "--ignore-not-found", timeout_s=120)


def test_a_page_is_read_as_a_user_would() -> None:
    text = "x\n```console\n$ a <<EOF\nb\nEOF\nout 1\n...\n$ c\n```\ny\n```yaml\n$ no\n```\n"
    assert pages.steps(text) == [pages.Step("a <<EOF\nb\nEOF", ["out 1", "..."]), pages.Step("c", [])]
    assert re.fullmatch(pages.pattern(["a...b", "...", "c"]), "a12b\nx\ny\nc\n")
    assert not re.fullmatch(pages.pattern(["a"]), "a\nb\n")


def test_every_page_is_listed_and_says_how_to_clean_up() -> None:
    listed = (pages.FOLDER / "README.md").read_text()
    for name in PAGES:
        assert f"({name}.md)" in listed
        made = set(re.findall(r"kubectl create namespace (\S+)", text := commands(name))) - {names.DEFAULT_NAMESPACE}
        assert all(f"kubectl delete namespace {one}" in text for one in made)
