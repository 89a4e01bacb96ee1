"""Notices that the mesh's roots have changed: the file that Kubernetes projects into this pod is another one."""

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from meshkit.log import logger

_log = logger("secrets")

LOOK_S: Final = 2.0


async def follow(file: Path, changed: Callable[[], None], *, look_s: float = LOOK_S) -> None:
    """Call ``changed`` at each new content of ``file``; until cancelled. While the file is missing, nothing changes."""
    known = await asyncio.to_thread(_digest, file)
    while True:
        await asyncio.sleep(look_s)
        digest = await asyncio.to_thread(_digest, file)
        if digest is not None and known is not None and digest != known:
            _log.info("roots of the mesh have changed, all certificates are renewed", file=file)
            changed()
        known = digest or known


def _digest(file: Path) -> bytes | None:
    try:
        return hashlib.sha256(file.read_bytes()).digest()
    except OSError:
        return None
