"""Power cuts while files are written: what a folder may hold when the machine is back.

The writer runs once, for real, and what it asks of the kernel is recorded. A cut keeps a beginning of that record, and
of the beginning what a file system guarantees (the least of what those of Linux do):

- bytes of a file are safe once it has been synced; until then each sector may be as it was, new, or zeros, and the file
  may have any of its lengths;
- a name in a folder is safe once the folder has been synced; until then a new name, a renaming or a removal may be
  lost, and not the oldest first. A renaming is lost as a whole.
"""

import os
import random
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

_SECTOR = 512
_HOOKED = ("fsync", "fdatasync", "sync", "rename", "replace", "unlink", "rmdir")


@dataclass(frozen=True, slots=True)
class _Content:
    """A file has these bytes and permissions now."""

    inode: int
    data: bytes = b""
    mode: int = 0


@dataclass(frozen=True, slots=True)
class _Names:
    """Names of folders changed in one step: (folder, name) to the inode, or to None where it is gone."""

    changes: dict[tuple[int, str], int | None]


@dataclass(frozen=True, slots=True)
class _Synced:
    """A file or folder is safe; None: everything is."""

    inode: int | None


_Event = _Content | _Names | _Synced


@dataclass
class _Disk:
    """What is safe, and what is not yet."""

    names: dict[tuple[int, str], int] = field(default_factory=dict)
    contents: dict[int, _Content] = field(default_factory=dict)
    unsafe_names: list[_Names] = field(default_factory=list)
    unsafe_contents: dict[int, _Content] = field(default_factory=dict)

    def take(self, event: _Event) -> None:
        match event:
            case _Content():
                self.unsafe_contents[event.inode] = event
            case _Names():
                self.unsafe_names.append(event)
            case _Synced():
                for inode in [event.inode] if event.inode is not None else list(self.unsafe_contents):
                    if inode in self.unsafe_contents:
                        self.contents[inode] = self.unsafe_contents.pop(inode)
                kept = []
                for names in self.unsafe_names:
                    if event.inode is None or any(folder == event.inode for folder, _ in names.changes):
                        _rename(self.names, names)
                    else:
                        kept.append(names)
                self.unsafe_names = kept

    def cut(self, draw: random.Random) -> tuple[dict[tuple[int, str], int], dict[int, _Content]]:
        """Return names and contents as they may be after a cut."""
        names, contents = dict(self.names), dict(self.contents)
        first_lost = draw.randint(0, len(self.unsafe_names))
        is_in_order = draw.random() < 0.5
        for number, each in enumerate(self.unsafe_names):
            if number < first_lost if is_in_order else draw.random() < 0.5:
                _rename(names, each)
        for inode, new in self.unsafe_contents.items():
            contents[inode] = _torn(contents.get(inode, _Content(inode, mode=new.mode)), new, draw)
        return names, contents


class Recording:
    """What a writer has done to a folder, step by step."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._events: list[_Event] = []
        self._steps: list[int] = []
        self._names: dict[tuple[int, str], int] = {}
        self._contents: dict[int, _Content] = {}
        self._seen: set[int] = set()
        self._held = ExitStack()
        self._look()
        self._events.append(_Synced(None))
        self._begin = len(self._events)

    def close(self) -> None:
        self._held.close()

    @contextmanager
    def step(self) -> Iterator[None]:
        """Record what is done within the block."""
        with ExitStack() as stack:
            for name in _HOOKED:
                stack.enter_context(mock.patch.object(os, name, self._hooked(getattr(os, name))))
            yield
        self._look()
        self._steps.append(len(self._events))

    def cut(self, target: Path, draw: random.Random) -> tuple[int, bool]:
        """Write to ``target`` what a cut at a random point leaves; return the step it was in, and if at its end."""
        at = draw.randint(self._begin, len(self._events))
        disk = _Disk()
        for event in self._events[:at]:
            disk.take(event)
        names, contents = disk.cut(draw)
        _write(target, self._root.stat().st_ino, names, contents)
        number = next(number for number, end in enumerate(self._steps) if at <= end)
        return number, at == self._steps[number]

    def _hooked(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._look()  # what was written before
            done = real(*args, **kwargs)
            match real.__name__:
                case "sync":
                    self._events.append(_Synced(None))
                case "fsync" | "fdatasync":
                    self._events.append(_Synced(os.fstat(args[0]).st_ino))
                case _:
                    self._look()
            return done

        return call

    def _look(self) -> None:
        """Note what differs from the last look."""
        names: dict[tuple[int, str], int] = {}
        for folder, entry in _entries(self._root):
            inode = entry.lstat().st_ino
            names[folder, entry.name] = inode
            if inode not in self._seen:
                self._seen.add(inode)
                # Held open, so that no other file gets its number.
                self._held.callback(os.close, os.open(entry, os.O_PATH))
            if entry.is_file():
                now = _Content(inode, entry.read_bytes(), stat.S_IMODE(entry.lstat().st_mode))
                if self._contents.get(inode) != now:
                    self._contents[inode] = now
                    self._events.append(now)
        changes: dict[tuple[int, str], int | None] = {
            key: inode for key, inode in names.items() if self._names.get(key) != inode
        }
        for key in self._names.keys() - names.keys():
            changes[key] = None
        if changes:
            self._events += [_Names(group) for group in _groups(changes, self._names)]
        self._names = names


@contextmanager
def recording(root: Path) -> Iterator[Recording]:
    """Record what happens to a folder; what it holds now is safe."""
    made = Recording(root)
    try:
        yield made
    finally:
        made.close()


def _entries(root: Path) -> Iterator[tuple[int, Path]]:
    inode = root.stat().st_ino
    for entry in sorted(root.iterdir()):
        yield inode, entry
        if entry.is_dir():
            yield from _entries(entry)


def _groups(
    changes: dict[tuple[int, str], int | None], before: dict[tuple[int, str], int]
) -> Iterable[dict[tuple[int, str], int | None]]:
    """Split changes into those that are made as one: the new name of an inode, and the old one that it had."""
    left = dict(changes)
    for key, inode in changes.items():
        if inode is None:
            continue
        old = [gone for gone, to in left.items() if to is None and before[gone] == inode]
        group: dict[tuple[int, str], int | None] = {key: left.pop(key)}
        for gone in old:
            group[gone] = left.pop(gone)
        yield group
    for key, to in left.items():
        yield {key: to}


def _rename(names: dict[tuple[int, str], int], event: _Names) -> None:
    for key, inode in event.changes.items():
        if inode is None:
            names.pop(key, None)
        else:
            names[key] = inode


def _torn(old: _Content, new: _Content, draw: random.Random) -> _Content:
    match draw.choice(("old", "new", "shorter", "zeros", "sectors")):
        case "old":
            return old
        case "new":
            return new
        case "shorter":
            return _Content(new.inode, new.data[: draw.randint(0, len(new.data))], new.mode)
        case "zeros":
            return _Content(new.inode, bytes(len(new.data)), new.mode)
    length = draw.choice((len(old.data), len(new.data)))
    sources = [data.ljust(length, b"\0") for data in (old.data, new.data, b"")]
    sectors = (draw.choice(sources)[at : at + _SECTOR] for at in range(0, length, _SECTOR))
    return _Content(new.inode, b"".join(sectors)[:length], new.mode)


def _write(target: Path, folder: int, names: dict[tuple[int, str], int], contents: dict[int, _Content]) -> None:
    target.mkdir(parents=True)
    for (parent, name), inode in names.items():
        if parent != folder:
            continue
        if inode in contents:
            (target / name).write_bytes(contents[inode].data)
            (target / name).chmod(contents[inode].mode)
        else:
            _write(target / name, inode, names, contents)
