"""The state of the mesh in a file of this node, so that a restarted proxy serves without the control plane.

A file is a header, one record for each resource (type, name, version, message) and a trailer with their number and a
checksum of all before it. It is replaced as a whole, so a reader sees the old one or the new one. Two processes of an
upgrade may write the same path: both follow the same control plane, and the later one wins.

Resources are not kept in memory for it: a write copies the records that still hold from the file before, which this
process keeps open, and appends what has changed. With 100,000 workloads that is half the memory of the host.
"""

import asyncio
import mmap
import os
import secrets
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from meshkit import files
from meshkit.log import logger

_log = logger("snapshot")

_MAGIC: Final = b"culvert mesh state 1\n"
_RECORD: Final = struct.Struct(">BHHI")
"""Number of the type, lengths of name, version and message."""
_TRAILER: Final = struct.Struct(">II")
_LARGEST: Final = 1 << 30
_BATCH: Final = 2000
_COLLECT_S: Final = 2.0
_DUTY: Final = 50
"""A write is followed by this many times its own duration of rest, so that churn costs 2 % of a core at most."""
_LEFT_S: Final = 600
"""Age at which an unfinished file is one that a crash has left."""

Key = tuple[int, str]
Upsert = tuple[str, str, bytes]


class Damaged(Exception):
    """A file is not what was written; nothing of it can be used."""


@dataclass(frozen=True, slots=True)
class _Record:
    key: Key
    version: str
    body: bytes

    def encode(self) -> bytes:
        name, version = self.key[1].encode(), self.version.encode()
        head = _RECORD.pack(self.key[0], len(name), len(version), len(self.body))
        return b"".join((head, name, version, self.body))


class Take(Protocol):
    """Takes resources of one type over, as a ``Receiver`` does; returns the names that were refused."""

    def __call__(self, type_url: str, upserts: list[Upsert]) -> Iterable[str]:
        """Called in a thread."""
        ...


class Snapshot:
    """Keeps the file. ``restore`` once, then ``run`` as a task; ``note`` what changes."""

    def __init__(self, path: Path, types: Sequence[str], *, collect_s: float = _COLLECT_S) -> None:
        """Keep a file.

        Args:
            path: of the file.
            types: type URLs of the resources that are kept. A type's place is its number in the file, and the order
                in which types are restored.
            collect_s: changes within so many seconds are written together.
        """
        self._path = path
        self._types = tuple(types)
        self._collect_s = collect_s
        self._base: BinaryIO | None = None
        self._pending: dict[Key, _Record | None] = {}
        self._changed = asyncio.Event()

    def note(self, type_url: str, upserts: Iterable[Upsert], removes: Iterable[str]) -> None:
        """Take down what has come into force; written a little later."""
        if type_url not in self._types:
            return
        kind = self._types.index(type_url)
        for name, version, body in upserts:
            self._pending[kind, name] = _Record((kind, name), version, body)
        for name in removes:
            self._pending[kind, name] = None
        if self._pending:
            self._changed.set()

    async def restore(self, take: Take) -> Mapping[str, Mapping[str, str]]:
        """Hand over what the file holds; returns names and versions by type, empty where there is no usable file."""
        try:
            held = await asyncio.to_thread(self._restore, take)
        except FileNotFoundError:
            return {}
        except (OSError, Damaged) as error:
            _log.warning("snapshot of the mesh ignored", path=self._path, reason=str(error))
            return {}
        _log.info("state of the mesh restored", path=self._path, resources=sum(map(len, held.values())))
        return held

    async def run(self) -> None:
        """Write what changes, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._changed.wait()
            await asyncio.sleep(self._collect_s)
            began = loop.time()
            await self.write()
            await asyncio.sleep((loop.time() - began) * _DUTY)

    async def write(self) -> None:
        """Write now what has changed; a failure is logged and tried again with the next change."""
        self._changed.clear()
        changes, self._pending = self._pending, {}
        try:
            written = await asyncio.to_thread(_replace, self._path, self._base, changes, len(self._types))
        except (OSError, Damaged) as error:
            self._pending = changes | self._pending
            _log.warning("snapshot of the mesh not written", path=self._path, reason=str(error))
            return
        self.close()
        self._base = written

    def close(self) -> None:
        """Let go of the file."""
        if self._base is not None:
            self._base.close()
            self._base = None

    def _restore(self, take: Take) -> Mapping[str, Mapping[str, str]]:
        for left in self._path.parent.glob(f".{self._path.name}.*"):
            if left.stat().st_mtime < time.time() - _LEFT_S:
                left.unlink(missing_ok=True)
        base = self._path.open("rb")
        try:
            held = _hand_over(base, take, self._drop, self._types)
        except BaseException:
            base.close()
            raise
        self._base = base
        return held

    def _drop(self, key: Key) -> None:
        self._pending[key] = None


def _hand_over(
    base: BinaryIO, take: Take, refuse: Callable[[Key], None], types: Sequence[str]
) -> dict[str, dict[str, str]]:
    held: dict[str, dict[str, str]] = {type_url: {} for type_url in types}
    batch: list[Upsert] = []

    def flush(kind: int) -> None:
        refused = set(take(types[kind], batch)) if batch else set()
        held[types[kind]].update({name: version for name, version, _ in batch if name not in refused})
        for name in refused:
            refuse((kind, name))
        batch.clear()

    with _mapped(base, len(types)) as content:
        for kind in range(len(types)):
            for start, end, key in _records(content, len(types)):
                if key[0] != kind:
                    continue
                batch.append(_upsert(content, start, end))
                if len(batch) == _BATCH:
                    flush(kind)
            flush(kind)
    return held


def _replace(path: Path, base: BinaryIO | None, changes: Mapping[Key, _Record | None], kinds: int) -> BinaryIO:
    """Write the records of ``base`` that still hold and the new ones; returns the new file, open."""
    # Not by process number: the two processes of an upgrade may both be number 1 in their containers.
    hidden = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    file = os.fdopen(descriptor, "w+b")
    try:
        _write(file, base, changes, kinds)
        file.flush()
        os.fsync(descriptor)
        hidden.replace(path)
        files.keep_names(path.parent)
    except BaseException:
        file.close()
        hidden.unlink(missing_ok=True)
        raise
    return file


def _write(file: BinaryIO, base: BinaryIO | None, changes: Mapping[Key, _Record | None], kinds: int) -> None:
    count = checksum = 0

    def put(part: bytes) -> None:
        nonlocal checksum
        checksum = zlib.crc32(part, checksum)
        file.write(part)

    put(_MAGIC)
    if base is not None:
        with _mapped(base, kinds) as content:
            # Neighbours that stay are copied as one piece.
            begin = end = len(_MAGIC)
            for _, stop, key in _records(content, kinds):
                if key in changes:
                    put(content[begin:end])
                    begin = stop
                else:
                    count += 1
                end = stop
            put(content[begin:end])
    for record in changes.values():
        if record is not None:
            put(record.encode())
            count += 1
    file.write(_TRAILER.pack(count, checksum))


def _mapped(file: BinaryIO, kinds: int) -> mmap.mmap:
    """Map a file and check it as a whole.

    Raises:
        Damaged: see there.
    """
    size = os.fstat(file.fileno()).st_size
    if not len(_MAGIC) + _TRAILER.size <= size <= _LARGEST:
        raise Damaged(f"its size is {size} bytes")
    content = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    try:
        if content[: len(_MAGIC)] != _MAGIC:
            raise Damaged("it does not begin as a snapshot of this version")
        with memoryview(content) as view, view[: -_TRAILER.size] as checked:
            actual = zlib.crc32(checked)
        count, checksum = _TRAILER.unpack(content[-_TRAILER.size :])
        if checksum != actual:
            raise Damaged("its checksum is wrong")
        if count != sum(1 for _ in _records(content, kinds)):
            raise Damaged("it does not hold as many records as it says")
    except BaseException:
        content.close()
        raise
    return content


def _records(content: mmap.mmap, kinds: int) -> Iterator[tuple[int, int, Key]]:
    """Yield where each record begins and ends, and whose it is."""
    at, last = len(_MAGIC), len(content) - _TRAILER.size
    while at < last:
        start = at
        try:
            kind, name, version, body = _RECORD.unpack_from(content, at)
            at += _RECORD.size
            key = kind, content[at : at + name].decode()
        except (struct.error, UnicodeDecodeError) as error:
            raise Damaged(f"a record cannot be read: {error}") from None
        at += name + version + body
        if at > last or kind >= kinds:
            raise Damaged("a record is longer than the file, or of a type that is not known")
        yield start, at, key


def _upsert(content: mmap.mmap, start: int, end: int) -> Upsert:
    _, name, version, _ = _RECORD.unpack_from(content, start)
    at = start + _RECORD.size
    text = content[at : at + name + version].decode()
    middle = len(content[at : at + name].decode())
    return text[:middle], text[middle:], content[at + name + version : end]
