"""Run a program to its end, with everything it says in a log file that an error can name."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from meshlab.errors import BuildFailed

_TAIL_LINES = 8


def logged(argv: Sequence[str], *, log: Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> None:
    """Run ``argv``; its output is appended to ``log``.

    Raises:
        BuildFailed: it ended with another status than 0; the message ends with the last lines of its output.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        done = subprocess.run(
            argv,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode != 0:
        raise BuildFailed(f"{argv[0]} ended with status {done.returncode}, see {log}:\n{tail(log)}")


def tail(log: Path, lines: int = _TAIL_LINES) -> str:
    """Return the last lines of a log file, indented."""
    try:
        text = log.read_text(errors="replace")
    except OSError as error:
        return f"    ({error})"
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:])
