"""``python -m bench.instructions``: what the tunnel runs in user space for a round trip and for a new connection.

Callgrind counts the instructions of both proxies. Unlike a time, their number is the same on a busy machine, so that a
change of one percent shows. What the kernel does is not in it.
"""

import argparse
import asyncio
import shutil
import sys
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL

from bench import contenders, pods, session
from bench.rows import Run


@dataclass(frozen=True)
class Row:
    """A mode of the load generator and its number."""

    name: str
    what: str
    number: int


ROWS = (Row("64 B round trip", "rtt", 64), Row("16 kB round trip", "rtt", 16384), Row("new connection", "connect", 1))


async def control(*words: str) -> None:
    process = await asyncio.create_subprocess_exec("callgrind_control", *words, stdout=DEVNULL, stderr=DEVNULL)
    if await process.wait() != 0:
        raise RuntimeError(f"callgrind_control {' '.join(words)} failed")


async def measure(run: Run, contender: contenders.Contender, row: Row, folder: Path) -> list[float]:
    """Return the instructions of each proxy, the client's and the server's, for one of what the row is about."""
    proxies = [str(pid) for pid in contender.proxies]
    await run.client(contender, row.what, row.number)  # certificates, the tunnel and threads are there now
    for pid in proxies:
        await control("--zero", pid)
        await control("--instr=on", pid)
    figures = await run.client(contender, row.what, row.number)
    for pid in proxies:
        await control("--instr=off", pid)
        await control(f"--dump={row.name}", pid)
    count = figures.get("count") or figures["per_s"] * run.seconds
    return [_newest_total(folder, pid) / count for pid in proxies]


def _newest_total(folder: Path, pid: str) -> int:
    newest = max(folder.glob(f"callgrind.{pid}.*"), key=lambda file: int(file.suffix[1:]))
    (total,) = (line.split()[1] for line in newest.read_text().splitlines() if line.startswith("totals:"))
    return int(total)


async def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.instructions", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="of load for each row")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="for callgrind's files, to be read by callgrind_annotate"
    )
    chosen = parser.parse_args()
    session.check()
    if shutil.which("callgrind_control") is None:
        sys.exit("bench: no callgrind; run: apt-get install valgrind")
    run = Run(session.build_load(), chosen.seconds)
    async with AsyncExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="culvert-bench-")))
        folder = chosen.keep or scratch
        folder.mkdir(parents=True, exist_ok=True)
        under = (
            "valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder}/callgrind.%p",
            f"--log-file={folder}/valgrind.%p",
        )  # fmt: skip
        bridge = pods.Bridge(stack)
        contender = await contenders.culvert(stack, bridge, run.load, scratch, under=under)
        print(f"{'instructions':20}{'client':>12}{'server':>12}")
        for row in ROWS:
            session.progress(row.name)
            near, far = await measure(run, contender, row, folder)
            print(f"{row.name:20}{near:12,.0f}{far:12,.0f}", flush=True)


if __name__ == "__main__":
    session.run(main())
