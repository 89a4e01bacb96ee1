"""The modules of each Rust crate are layers: no module depends on one that depends on it."""

from pathlib import Path

import pytest

from tests.architecture.rust_modules import Crate
from tests.architecture.sources import ROOT

CRATES = sorted(path.parent for path in (ROOT / "engine" / "crates").glob("*/src"))


@pytest.mark.parametrize("crate", CRATES, ids=lambda path: path.name)
def test_no_modules_depend_on_each_other(crate: Path) -> None:
    assert Crate(crate / "src").circles() == []


def test_a_planted_circle_is_found(tmp_path: Path) -> None:
    planted = {
        "lib.rs": "mod a;\nmod b;\npub use a::A;\npub mod limits { pub const MAX: u8 = 1; }\n",
        "a.rs": "use crate::b::{self, c::D as E};\npub struct A(b::B, E);\n",
        "b/mod.rs": "mod c;\npub(crate) use c::{D, F};\npub struct B;\n",
        "b/c.rs": "/// See [`super::super::a`].\npub struct D;\npub struct F;\n",
        "d.rs": 'const TEXT: &str = "crate::a::A";\n#[cfg(test)]\nmod tests { use crate::a::A; }\n',
    }
    for name, source in planted.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(source)
    assert Crate(tmp_path).circles() == []
    assert Crate(tmp_path).dependencies(("a",)) == {("b",), ("b", "c")}
    (tmp_path / "b" / "c.rs").write_text("use crate::A;\npub struct D;\n")
    assert Crate(tmp_path).circles() == [["crate::a", "crate::b::c"]]
    (tmp_path / "b" / "c.rs").write_text("pub struct D(super::B);\n")
    (tmp_path / "b" / "mod.rs").write_text("mod c;\nuse c::D;\npub struct B(D);\n")
    assert Crate(tmp_path).circles() == [["crate::b", "crate::b::c"]]
