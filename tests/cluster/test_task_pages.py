"""The pages of ``docs/tasks`` are executed, and print what they say."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from meshlab import addons, lab
from meshlab.progress import Progress
from tests.support.lab import ROOT, install
from tests.support.mesh import Mesh

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]  # with the build of MetalLB

PAGES = sorted(path.stem for path in (ROOT / "docs/tasks").glob("*.md") if path.stem != "README")
ANYTHING = "..."
END = "\x01"
"""What no command prints: it separates their outputs."""


@dataclass
class Step:
    """A command of a page, and what it prints; without an output, it only has to succeed."""

    command: str
    output: list[str]


def steps(text: str) -> list[Step]:
    """The commands of a page, in order."""
    found: list[Step] = []
    for block in re.findall(r"^```console\n(.*?)^```", text, re.S | re.M):
        until = ""
        for line in block.splitlines():
            if until:
                found[-1].command += f"\n{line}"
                until = "" if line == until else until
            elif line.startswith("$ "):
                found.append(Step(line[2:], []))
                here = re.search(r"<<(\w+)$", line)
                until = here[1] if here else ""
            else:
                found[-1].output.append(line)
    return found


def pattern(lines: list[str]) -> str:
    """What an output has to match; a line of dots alone is any number of lines."""
    parts = [r"(?:.*\n)*" if line == ANYTHING else _line(line) for line in lines]
    return "".join(parts)


def _line(line: str) -> str:
    return ".*".join(re.escape(part) for part in line.split(ANYTHING)) + r"\n"


def run(page: list[Step], environment: dict[str, str], folder: Path) -> list[tuple[str, int]]:
    """Run all commands in one shell; what each has printed, and its exit status."""
    script = folder / "page.sh"
    script.write_text("\n".join(f"{step.command}\nprintf '{END}%s{END}' $?" for step in page))
    done = subprocess.run(
        ["bash", script], stdin=subprocess.DEVNULL, env=environment, cwd=ROOT, text=True, timeout=600, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    parts = done.stdout.split(END)
    return [(text, int(status)) for text, status in zip(parts[::2], parts[1::2], strict=False)]


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


@pytest.mark.parametrize("name", PAGES)
def test_page(name: str, cluster_with_addresses: Mesh, environment: dict[str, str], tmp_path: Path) -> None:
    page = steps((ROOT / f"docs/tasks/{name}.md").read_text())
    try:
        results = run(page, environment, tmp_path)
        for step, (printed, status) in zip(page, results, strict=True):
            assert status == 0, f"$ {step.command}\n{printed}"
            if step.output:
                wanted = pattern(step.output)
                complete = printed if printed.endswith("\n") else f"{printed}\n"
                assert re.fullmatch(wanted, complete), f"$ {step.command}\n{printed}\nwanted:\n" + "\n".join(
                    step.output
                )
    finally:
        for step in page:
            if made := re.match(r"kubectl create namespace (\S+)", step.command):
                cluster_with_addresses.lab.kubectl("delete", "namespace", made[1], "--ignore-not-found", timeout_s=120)


def test_a_page_is_read_as_a_user_would() -> None:
    text = "x\n```console\n$ a <<EOF\nb\nEOF\nout 1\n...\n$ c\n```\ny\n```yaml\n$ no\n```\n"
    assert steps(text) == [Step("a <<EOF\nb\nEOF", ["out 1", "..."]), Step("c", [])]
    assert re.fullmatch(pattern(["a...b", "...", "c"]), "a12b\nx\ny\nc\n")
    assert not re.fullmatch(pattern(["a"]), "a\nb\n")


def test_every_page_is_listed_and_says_how_to_clean_up() -> None:
    listed = (ROOT / "docs/tasks/README.md").read_text()
    for name in PAGES:
        assert f"({name}.md)" in listed
        made = re.findall(r"kubectl create namespace (\S+)", text := (ROOT / f"docs/tasks/{name}.md").read_text())
        assert all(f"kubectl delete namespace {one}" in text for one in made)
