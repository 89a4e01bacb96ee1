"""Files that commands make from the code: written, or compared with what they have to be."""

import sys
from collections.abc import Collection, Iterable
from pathlib import Path


def write_or_check(texts: Iterable[tuple[Path, str]], arguments: Collection[str], command: str) -> int:
    """Write files that are made, or with ``--check`` only compare; return the exit status.

    Args:
        texts: each file, and what it has to hold.
        arguments: of the command line.
        command: that makes the files, for the message that they are stale.
    """
    stale = []
    for file, text in texts:
        if file.exists() and file.read_text() == text:
            continue
        stale.append(file)
        if "--check" not in arguments:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    if stale and "--check" in arguments:
        sys.stderr.write(f"{stale[0]} is stale: run {command}\n")
        return 1
    return 0
