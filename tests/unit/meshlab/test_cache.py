"""Entries of the cache are complete or not there, and found by what they are made from."""

import os
import threading
from pathlib import Path

import pytest

from meshlab import cache


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_an_entry_is_made_once() -> None:
    made: list[Path] = []

    def make(draft: Path) -> None:
        made.append(draft)
        (draft / "thing").write_text("done")

    threads = [threading.Thread(target=cache.obtain, args=("things", "key", make)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert (cache.obtain("things", "key", make) / "thing").read_text() == "done"


def test_a_failed_build_leaves_no_cache_entry() -> None:
    def fail(draft: Path) -> None:
        (draft / "thing").write_text("half")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        cache.obtain("things", "key", fail)
    assert list(cache.obtain("things", "key", lambda _: None).iterdir()) == []


def test_the_key_follows_content_name_and_mode(tmp_path: Path) -> None:
    file = tmp_path / "tree" / "file"
    file.parent.mkdir()
    file.write_text("one")
    keys = [cache.key(file.parent)]
    file.write_text("two")
    keys.append(cache.key(file.parent))
    file.chmod(0o755)
    keys.append(cache.key(file.parent))
    file.rename(file.with_name("other"))
    keys.append(cache.key(file.parent))
    assert len(set(keys)) == len(keys)


def test_the_key_does_not_mix_up_where_one_text_ends() -> None:
    assert cache.key("ab", "c") != cache.key("a", "bc")


def test_pruning_keeps_the_newest() -> None:
    for number in range(4):
        entry = cache.obtain("things", str(number), lambda _: None)
        os.utime(entry, (number, number))
    cache.prune("things", keep=2)
    assert sorted(entry.name for entry in entry.parent.iterdir() if entry.is_dir()) == ["2", "3"]
