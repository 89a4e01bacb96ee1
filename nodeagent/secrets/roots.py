"""Detects a change of the mesh's roots: the file that Kubernetes projects into this pod changes."""

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from meshkit.log import logger

_log = logger("secrets")

POLL_S: Final = 2.0


async def follow(file: Path, changed: Callable[[], None], *, poll_s: float = POLL_S) -> None:
    """Call ``changed`` for each new content of ``file``, until cancelled. A missing file is no change."""
    known = await asyncio.to_thread(_digest, file)
    while True:
        await asyncio.sleep(poll_s)
        digest = await asyncio.to_thread(_digest, file)
        if digest is not None and known is not None and digest != known:
            _log.info("roots of the mesh changed, renewing all certificates", file=file)
            changed()
        known = digest or known


def _digest(file: Path) -> bytes | None:
    try:
        return hashlib.sha256(file.read_bytes()).digest()
    except OSError:
        return None
