"""Detects a change of the mesh's roots: the file that Kubernetes projects into this pod changes."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from meshkit import files
from meshkit.log import logger

_log = logger("secrets")

POLL_S: Final = 2.0


async def follow(file: Path, changed: Callable[[], None], *, poll_s: float = POLL_S) -> None:
    """Call ``changed`` for each new content of ``file``, until cancelled. A missing file is no change."""
    known = b""
    async for content in files.follow(file, poll_s=poll_s):
        if isinstance(content, OSError) or not content:
            continue
        if known and content != known:
            _log.info("roots of the mesh changed, renewing all certificates", file=file)
            changed()
        known = content
