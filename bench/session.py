"""What benches in network namespaces begin and end with."""

import asyncio
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any


def build_load() -> Path:
    """Build the load generator, or return the one that was built."""
    return _build("load")


def build_relay() -> Path:
    """Build the relay that does the least, or return the one that was built."""
    return _build("relay")


def _build(name: str) -> Path:
    """Build a program of ``bench/load`` into the cache, once for each version of its source."""
    source = Path(__file__).parent / "load" / f"{name}.c"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "culvert"
    program = cache / f"{name}-{hashlib.sha256(source.read_bytes()).hexdigest()[:16]}"
    if not program.exists():
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = program.with_suffix(f".{os.getpid()}")
        subprocess.run(["cc", "-O2", "-Wall", "-pthread", "-o", unfinished, source], check=True)
        unfinished.rename(program)
    return program


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def check() -> None:
    """End the program where this machine lacks something for a bench, with the fix."""
    if shutil.which("cc") is None:
        sys.exit("bench: no C compiler; run: make system")
    if os.geteuid() != 0:
        sys.exit("bench: network namespaces need root")


def run(bench: Coroutine[Any, Any, None]) -> None:
    """Run a bench to its end.

    Namespaces and proxies go whichever way it ends; an interrupt does the same by asyncio's own means.
    """
    try:
        asyncio.run(_until_told(bench))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)


async def _until_told(bench: Coroutine[Any, Any, None]) -> None:
    task = asyncio.ensure_future(bench)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await task
