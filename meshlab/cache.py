"""Things that are expensive to make, kept outside the clone and found again by what they were made from.

Rule 1: an entry is a folder ``<cache>/<what>/<key>``; it is complete or it does not exist (made aside, then renamed).
Rule 2: the key covers everything that the content depends on; an entry never changes.
Rule 3: two processes that want the same entry make it once (a lock for each ``what``).
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_KEY_LENGTH = 16


def folder() -> Path:
    """Return the root of the cache: ``$XDG_CACHE_HOME/culvert``, or ``~/.cache/culvert``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "culvert"


def key(*parts: str | Path) -> str:
    """Return a short digest of texts and of files and folders (relative names, modes and contents)."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            _feed(digest.update, b"text", part.encode())
            continue
        for path in [part] if part.is_file() else sorted(_files(part)):
            name = path.name if path == part else str(path.relative_to(part))
            mode = b"x" if os.access(path, os.X_OK) else b"-"
            _feed(digest.update, b"file", name.encode(), mode, path.read_bytes())
    return digest.hexdigest()[:_KEY_LENGTH]


def obtain(what: str, entry_key: str, make: Callable[[Path], None]) -> Path:
    """Return the folder of an entry, after ``make`` has filled it if it was not there."""
    entry = folder() / what / entry_key
    if entry.exists():
        return entry
    with _lock(what):
        if entry.exists():
            return entry
        draft = entry.with_name(f".{entry_key}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        make(draft)
        os.sync()  # or, after a power cut, an entry that exists may be incomplete
        draft.rename(entry)
    return entry


def prune(what: str, *, keep: int) -> None:
    """Remove all but the newest entries; for things that change often and of which only the last matter."""
    with _lock(what):
        entries = [entry for entry in (folder() / what).iterdir() if entry.is_dir()]
        for entry in sorted(entries, key=lambda entry: entry.stat().st_mtime, reverse=True)[keep:]:
            shutil.rmtree(entry)


@contextmanager
def _lock(what: str) -> Iterator[None]:
    home = folder() / what
    home.mkdir(parents=True, exist_ok=True)
    with (home / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _feed(update: Callable[[bytes], None], *pieces: bytes) -> None:
    for piece in pieces:  # lengths first, so that no two sequences of pieces look the same
        update(len(piece).to_bytes(8, "big"))
        update(piece)


def _files(root: Path) -> Iterator[Path]:
    for path in root.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path
