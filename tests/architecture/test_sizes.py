"""No file and no function is so long that a reader loses the thread."""

import ast
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

from tests.architecture.sources import ROOT, modules

MAX_LINES_OF_FILE = 450
MAX_LINES_OF_FUNCTION = 60
TABLES = {("controlplane/metrics.py", "__init__")}
"""Functions that only list things."""
PACKAGES = (
    "meshapi",
    "meshengine",
    "meshkit",
    "meshproxy",
    "nodeagent",
    "ztunnel",
    "waypoint",
    "controlplane",
    "meshlab",
    "meshctl",
)


def files() -> list[Path]:
    native = [path.relative_to(ROOT) for folder, suffix in (("engine", "rs"), ("bpf", "c"), ("tests", "py"))
              for path in (ROOT / folder).rglob(f"*.{suffix}")]  # fmt: skip
    return [*modules(), *sorted(path for path in native if "target" not in path.parts and "_pb2" not in path.name)]


def functions(source: str) -> Iterator[tuple[str, int]]:
    """Yield name and lines of each function."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1


def test_no_file_is_too_long() -> None:
    lengths = {str(path): len((ROOT / path).read_text().splitlines()) for path in files()}
    assert len(lengths) > 500
    assert {path: lines for path, lines in lengths.items() if lines > MAX_LINES_OF_FILE} == {}


@pytest.mark.parametrize("path", [path for path in files() if path.suffix == ".py"], ids=str)
def test_no_function_is_too_long(path: Path) -> None:
    long = {name: lines for name, lines in functions((ROOT / path).read_text()) if lines > MAX_LINES_OF_FUNCTION}
    assert [name for name in long if (str(path), name) not in TABLES] == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = grimp.build_graph(*PACKAGES)
    circles = [
        (module, imported)
        for module in graph.modules
        for imported in graph.find_modules_directly_imported_by(module)
        if graph.chain_exists(importer=imported, imported=module)
    ]
    assert circles == []
