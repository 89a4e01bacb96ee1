"""What crosses a link, as a listener sees it."""

import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Wire:
    """What crossed a link: tcpdump's text, one line of head (time first) and some of content for each packet."""

    def __init__(self, text: str) -> None:
        self.text = text

    def packets(self, pattern: str) -> int:
        """Number of lines that match."""
        return sum(bool(re.search(pattern, line)) for line in self.text.splitlines())

    def first(self, pattern: str) -> float | None:
        """Time (seconds since the epoch) of the first packet whose head matches."""
        heads = (line for line in self.text.splitlines() if re.match(r"\d+\.\d+ IP", line))
        return next((float(line.split()[0]) for line in heads if re.search(pattern, line)), None)


@contextmanager
def captured(link: str, expression: str, space: Path | None = None) -> Iterator[list[Wire]]:
    """Capture packets while the context is open; the list gets its one element at the end.

    Args:
        link: interface to listen on, ``any`` for all.
        expression: which packets, as tcpdump says it.
        space: network namespace of the interface; this process's own by default.
    """
    result: list[Wire] = []
    enter = ["nsenter", f"--net={space}", "--"] if space else []
    command = [*enter, "tcpdump", "-i", link, "-n", "-A", "-tt", "-U", "-s", "256", "--immediate-mode", expression]
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        while "listening on" not in process.stderr.readline():
            assert process.poll() is None, "tcpdump ended at once; is the package tcpdump installed?"
        try:
            yield result
        finally:
            time.sleep(0.3)  # tcpdump has no event to wait for its last packets
            process.terminate()
            process.communicate(timeout=10)
            output.seek(0)
            result.append(Wire(output.read()))
