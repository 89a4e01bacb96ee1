"""Certificates and roots from files of the pod, for TLS that a DestinationRule demands of the proxy.

Names are those of Istio's agent: ``file-root:ROOTS``, ``file-root:system`` and ``file-cert:CHAIN~KEY``; roots may be
followed by a revocation list (``file-root:ROOTS~LIST``). Files are read again when they change. A secret whose files
are missing is not served: the proxy then refuses to connect, it does not connect without TLS.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Set
from pathlib import Path
from typing import Final

from meshapi import names
from meshkit import files
from meshkit.log import logger
from meshkit.xds import sds
from meshkit.xds.source import Listener, Resource, hashed

_log = logger("secrets")

POLL_S: Final = 2.0


class FileSecrets:
    """A ``ResourceSource`` with the secrets in files that clients have asked for. Run ``follow``."""

    announces_missing = False
    """Files may be mounted later."""

    def __init__(self, system_roots: Path) -> None:
        """``system_roots`` is the file that ``file-root:system`` stands for."""
        self._system = system_roots
        self._found: dict[str, Resource | None] = {}
        self._faults: dict[str, str] = {}
        self._listeners: list[Listener] = []
        self._asked = asyncio.Event()

    def serves(self, type_url: str) -> bool:
        """See ``ResourceSource.serves``."""
        return type_url == names.SECRET_TYPE

    def lookup(self, type_url: str, name: str) -> Resource | None:
        """See ``ResourceSource.lookup``."""
        return self._found.get(name) if self.serves(type_url) else None

    def resolve(self, type_url: str, name: str) -> Iterable[Resource]:
        """See ``ResourceSource.resolve``."""
        found = self.lookup(type_url, name)
        return () if found is None else (found,)

    def all(self, type_url: str) -> Collection[Resource]:
        """See ``ResourceSource.all``."""
        return [found for found in self._found.values() if found is not None] if self.serves(type_url) else []

    def watch(self, listener: Listener) -> Callable[[], None]:
        """See ``ResourceSource.watch``."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def wanted(self, type_url: str, names: Set[str]) -> None:
        """See ``ResourceSource.wanted``: the files of these names are read soon."""
        if not self.serves(type_url):
            return
        for name in names:
            if is_file(name) and name not in self._found:
                self._found[name] = None
                self._asked.set()

    async def follow(self, *, poll_s: float = POLL_S) -> None:
        """Read the files that are asked for, at once and every ``poll_s`` seconds, until cancelled."""
        while True:
            self._asked.clear()
            for name in list(self._found):
                self._take(name, await asyncio.to_thread(self._read, name))
            try:
                async with asyncio.timeout(poll_s):
                    await self._asked.wait()
            except TimeoutError:
                pass

    def _take(self, name: str, found: Resource | str) -> None:
        if isinstance(found, str):
            if self._faults.get(name) != found:
                self._faults[name] = found
                kept = "the last ones stay" if self._found[name] is not None else "connections that need them fail"
                _log.error("certificates or roots cannot be read", secret=name, reason=found, effect=kept)
            return
        self._faults.pop(name, None)
        if found != self._found[name]:
            self._found[name] = found
            for listener in list(self._listeners):
                listener(names.SECRET_TYPE, frozenset({name}))

    def _read(self, name: str) -> Resource | str:
        """Return the secret of a name, or why there is none. Blocks."""
        kind, _, rest = name.partition(":")
        first, _, second = rest.partition("~")
        paths = [Path(path) for path in (first, second) if path]
        if name == names.SYSTEM_ROOTS_SECRET_NAME:
            paths = [self._system]
        contents = [files.read(path) for path in paths]
        for path, content in zip(paths, contents, strict=True):
            if isinstance(content, OSError):
                return str(content)
            if not content:
                return f"{path} is missing or empty"
        read = [content for content in contents if isinstance(content, bytes)]
        if kind == names.FILE_ROOTS:
            return hashed(name, sds.TrustBundle(*read).encode(name))
        if len(read) != 2:
            return f"the name has to be {names.FILE_CERTIFICATE}:CHAIN~KEY"
        return hashed(name, sds.KeyPair(*read).encode(name))


def is_file(name: str) -> bool:
    """Return whether a secret of this name is in files."""
    return name.partition(":")[0] in {names.FILE_ROOTS, names.FILE_CERTIFICATE}
