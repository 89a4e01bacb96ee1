"""Bookinfo from outside of the cluster, as the tour shows it: a Gateway, MetalLB, and routes that shift versions."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from samples.tour import commands, edge
from tests.support.lab import ROOT
from tests.support.mesh import Mesh

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]  # with the build of MetalLB

NS = "outside"
VERSIONS = ("productpage-v1", "details-v1", "ratings-v1", "reviews-v1", "reviews-v2", "reviews-v3")


@pytest.fixture(scope="module")
def page(mesh: Mesh) -> Iterator[str]:
    mesh.namespace(NS, enrolled=True)
    mesh.lab.apply(ROOT / "samples/bookinfo/platform/kube/bookinfo.yaml", namespace=NS)
    mesh.lab.rolled_out(*VERSIONS, namespace=NS, timeout_s=120)
    mesh.waypoint(NS)
    yield edge.publish(commands.Kubectl(mesh.lab.name), mesh.lab.name, NS)
    mesh.lab.kubectl("delete", "namespace", NS, "--wait=false")


def test_pages_from_outside_show_the_versions_that_routes_say(mesh: Mesh, page: str) -> None:
    shifts = list(edge.shift(commands.Kubectl(mesh.lab.name), NS, page))
    assert [set(one.pages) for one in shifts] == [{""}, {"", "red"}, {"red"}]


def test_a_browser_renders_the_page(page: str, tmp_path: Path) -> None:
    """docs/product-page.png is the picture that this test takes."""
    browser = ["chromium", "--headless=new", "--no-sandbox", f"--user-data-dir={tmp_path / 'profile'}"]
    browser += ["--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--window-size=1000,720"]
    done = subprocess.run([*browser, "--dump-dom", page], capture_output=True, text=True, check=True, timeout=60)
    for part in ("The Comedy of Errors", "Book Details", "Book Reviews", 'data-color="red"'):
        assert part in done.stdout, done.stdout
    picture = tmp_path / "product-page.png"
    subprocess.run([*browser, f"--screenshot={picture}", page], capture_output=True, check=True, timeout=60)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 10_000, "a blank page is smaller"


def test_the_rest_of_the_application_is_not_published(page: str) -> None:
    base = page.removesuffix("/productpage")
    argv = ["curl", "-sS", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}"]
    found = [
        subprocess.run([*argv, f"{base}{path}"], capture_output=True, text=True, check=True).stdout
        for path in ("/api/v1/products", "/reviews/0", "/")
    ]
    assert found == ["200", "404", "404"]
