"""``python -m bench.tunnel``: the tunnel across nodes against bare TCP and two Envoys, in alternating rounds.

Each round measures every contender once before any is measured again, so what the machine does besides falls on all
of them alike. Figures are medians over the rounds. The ratio is the median of the rounds' ratios, so that a round in
which the machine was busy counts once; only ratios travel to another machine.
"""

import argparse
import asyncio
import hashlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from contextlib import AsyncExitStack
from pathlib import Path

from bench import contenders, pods
from bench.rows import ROWS, Row, Run

Results = dict[str, dict[str, list[float]]]


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.tunnel", description="Measure the tunnel across nodes.")
    parser.add_argument("--rounds", type=int, default=7, help="rounds (default: 7)")
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds for each figure (default: 1)")
    names = [row.name for row in ROWS]
    parser.add_argument("--only", action="append", choices=names, help="measure this row; may be given several times")
    parser.add_argument(
        "--access-log",
        nargs="?",
        const="text",
        choices=["text", "otlp"],
        help="measure what the access log costs: our tunnel with it and without (default: text)",
    )
    chosen = parser.parse_args()
    if chosen.rounds < 1 or not 0.1 <= chosen.seconds <= 60:
        parser.error("at least one round, of 0.1 to 60 seconds a figure")
    return chosen


def build_load() -> Path:
    """Build the load generator into the cache, once for each version of its source."""
    source = Path(__file__).parent / "load" / "load.c"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "culvert"
    program = cache / f"load-{hashlib.sha256(source.read_bytes()).hexdigest()[:16]}"
    if not program.exists():
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = program.with_suffix(f".{os.getpid()}")
        subprocess.run(["cc", "-O2", "-Wall", "-pthread", "-o", unfinished, source], check=True)
        unfinished.rename(program)
    return program


async def measure(chosen: argparse.Namespace) -> tuple[list[str], Results]:
    load = build_load()
    run = Run(load, chosen.seconds)
    rows = [row for row in ROWS if not chosen.only or row.name in chosen.only]
    results: Results = defaultdict(lambda: defaultdict(list))

    async def one(row: Row, contender: contenders.Contender) -> None:
        try:
            figures = await row.measure(run, contender)
        except (RuntimeError, TimeoutError) as error:
            raise SystemExit(f"bench: {contender.name}, {row.name}: {error or 'took too long'}") from error
        for key, value in figures.items():
            results[key][contender.name].append(value)

    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="culvert-bench-")))
        bridge = pods.Bridge(stack)
        everyone = [await contenders.bare(stack, bridge, load)]
        if chosen.access_log:
            everyone.append(await contenders.culvert(stack, bridge, load, folder, access_log=chosen.access_log))
        everyone.append(await contenders.culvert(stack, bridge, load, folder))
        if not chosen.access_log:
            everyone.append(await contenders.envoys(stack, bridge, load, folder))
        for row in rows:
            for contender in everyone if row.once else []:
                await one(row, contender)
        for number in range(chosen.rounds):
            progress(f"round {number + 1} of {chosen.rounds}")
            for row in rows:
                for contender in [] if row.once else everyone:
                    await one(row, contender)
        return [contender.name for contender in everyone], results


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def table(columns: list[str], results: Results) -> str:
    """Return medians, and our ratio to the peer; below 1 is better where less is."""
    *_, ours, peer = columns
    lines = [["", *columns, f"{ours} / {peer}", "wanted"]]
    for figure in (figure for row in ROWS for figure in row.figures if figure.key in results):
        medians = {name: statistics.median(values) for name, values in results[figure.key].items()}
        cells = [f"{medians[name]:,.{figure.digits}f}" if name in medians else "" for name in columns]
        pairs = zip(results[figure.key][ours], results[figure.key][peer], strict=True)
        ratio = f"{statistics.median(mine / theirs for mine, theirs in pairs):.2f}"
        lines.append([figure.title, *cells, ratio, figure.better])
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    first, *others = widths

    def shown(line: list[str]) -> str:
        cells = [cell.rjust(width) for cell, width in zip(line[1:], others, strict=True)]
        return "  ".join([line[0].ljust(first), *cells])

    return "\n".join(map(shown, lines))


async def main() -> None:
    chosen = options()
    lacking = contenders.missing() or (None if os.geteuid() == 0 else "network namespaces need root")
    if lacking:
        sys.exit(f"bench: {lacking}")
    task = asyncio.current_task()
    assert task is not None
    # Namespaces and proxies go whichever way this ends; an interrupt does the same by asyncio's own means.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    print(table(*await measure(chosen)))


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)
