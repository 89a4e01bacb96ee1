"""The pages of ``docs/tasks`` are executed, and print what they say."""

import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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
EXECUTED = [name for name in PAGES if name not in OF_THEIR_OWN]
SHARED = "bookinfo"
"""The namespace that several pages create."""


@pytest.fixture(scope="module")
def cluster_with_addresses(mesh: Mesh) -> Mesh:
    for addon in ("metallb", "fortio"):
        lab.add(mesh.lab.name, addon, addons.named(addon), progress=Progress())
    install(mesh.lab, "--set", "profile=demo")
    return mesh


def commands(name: str) -> str:
    return (pages.FOLDER / f"{name}.md").read_text()


def namespaces(name: str) -> list[str]:
    """What a page creates."""
    return re.findall(r"kubectl create namespace (\S+)", commands(name))


@pytest.fixture(scope="module")
def executed(
    cluster_with_addresses: Mesh, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[None]]]:
    """All pages by name, executed side by side as far as they have namespaces of their own: mostly they wait."""
    mesh = cluster_with_addresses

    def execute(name: str) -> None:
        folder = tmp_path_factory.mktemp(name)
        own = folder / "kubeconfig"  # pages change the namespace in it
        shutil.copy(mesh.lab.kubeconfig, own)
        programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        try:
            pages.execute(pages.steps(commands(name)), {**os.environ, "KUBECONFIG": str(own), "PATH": programs}, folder)
        finally:
            for made in namespaces(name):
                mesh.lab.kubectl("delete", "namespace", made, "--ignore-not-found", timeout_s=120)

    with ThreadPoolExecutor(1) as shared, ThreadPoolExecutor(1) as apart:
        yield {name: (shared if SHARED in namespaces(name) else apart).submit(execute, name) for name in EXECUTED}
        for one in (shared, apart):
            one.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", EXECUTED)
def test_page(name: str, executed: dict[str, Future[None]]) -> None:
    executed[name].result()


def test_a_page_is_read_as_a_user_would() -> None:
    text = "x\n```console\n$ a <<EOF\nb\nEOF\nout 1\n...\n$ c\n```\ny\n```yaml\n$ no\n```\n"
    assert pages.steps(text) == [pages.Step("a <<EOF\nb\nEOF", ["out 1", "..."]), pages.Step("c", [])]
    assert re.fullmatch(pages.pattern(["a...b", "...", "c"]), "a12b\nx\ny\nc\n")
    assert not re.fullmatch(pages.pattern(["a"]), "a\nb\n")


def test_every_page_is_listed_and_says_how_to_clean_up() -> None:
    listed = (pages.FOLDER / "README.md").read_text()
    for name in PAGES:
        assert f"({name}.md)" in listed
        made = set(namespaces(name)) - {names.DEFAULT_NAMESPACE}
        assert all(f"kubectl delete namespace {one}" in commands(name) for one in made)


def test_pages_that_are_executed_side_by_side_have_namespaces_of_their_own() -> None:
    made = Counter(one for name in EXECUTED for one in namespaces(name))
    assert {one for one, count in made.items() if count > 1} == {SHARED}
