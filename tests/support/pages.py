"""Pages of ``docs/tasks``: their commands, run in a shell, and what they have to print."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.lab import ROOT

FOLDER = ROOT / "docs/tasks"
ANYTHING = "..."
END = "\x01"
"""What no command prints: it separates their outputs."""


@dataclass
class Step:
    """A command of a page, and what it prints; without an output, it only has to succeed."""

    command: str
    output: list[str]


def steps(text: str) -> list[Step]:
    """The commands of a page, in order."""
    found: list[Step] = []
    for block in re.findall(r"^```console\n(.*?)^```", text, re.S | re.M):
        until = ""
        for line in block.splitlines():
            if until:
                found[-1].command += f"\n{line}"
                until = "" if line == until else until
            elif line.startswith("$ "):
                found.append(Step(line[2:], []))
                here = re.search(r"<<(\w+)$", line)
                until = here[1] if here else ""
            else:
                found[-1].output.append(line)
    return found


def pattern(lines: list[str]) -> str:
    """What an output has to match; a line of dots alone is any number of lines."""
    parts = [r"(?:.*\n)*" if line == ANYTHING else _line(line) for line in lines]
    return "".join(parts)


def execute(page: list[Step], environment: dict[str, str], folder: Path) -> None:
    """Run all commands of a page in one shell, and compare what each prints and its exit status.

    Raises:
        AssertionError: a command fails, or prints something else.
    """
    for step, (printed, status) in zip(page, _run(page, environment, folder), strict=True):
        assert status == 0, f"$ {step.command}\n{printed}"
        if step.output:
            wanted = pattern(step.output)
            complete = printed if printed.endswith("\n") else f"{printed}\n"
            assert re.fullmatch(wanted, complete), f"$ {step.command}\n{printed}\nwanted:\n" + "\n".join(step.output)


def _line(line: str) -> str:
    return ".*".join(re.escape(part) for part in line.split(ANYTHING)) + r"\n"


def _run(page: list[Step], environment: dict[str, str], folder: Path) -> list[tuple[str, int]]:
    """What each command has printed, and its exit status."""
    script = folder / "page.sh"
    script.write_text("\n".join(f"{step.command}\nprintf '{END}%s{END}' $?" for step in page))
    done = subprocess.run(
        ["bash", script], stdin=subprocess.DEVNULL, env=environment, cwd=ROOT, text=True, timeout=600, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    parts = done.stdout.split(END)
    return [(text, int(status)) for text, status in zip(parts[::2], parts[1::2], strict=False)]
