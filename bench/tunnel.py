"""``python -m bench.tunnel``: the tunnel across nodes against bare TCP and two Envoys, in alternating rounds.

Each round measures every contender once before any is measured again, so what the machine does besides falls on all
of them alike. Figures are medians over the rounds. The ratio is the median of the rounds' ratios, so that a round in
which the machine was busy counts once; only ratios travel to another machine.
"""

import argparse
import statistics
import tempfile
from collections import defaultdict
from contextlib import AsyncExitStack
from pathlib import Path

from bench import contenders, pods, session
from bench.rows import ROWS, Row, Run

Results = dict[str, dict[str, list[float]]]


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.tunnel", description="Measure the tunnel across nodes.")
    parser.add_argument("--rounds", type=int, default=7, help="rounds (default: 7)")
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds for each figure (default: 1)")
    names = [row.name for row in ROWS]
    parser.add_argument("--only", action="append", choices=names, help="measure this row; may be given several times")
    parser.add_argument(
        "--relay", action="store_true", help="measure also a relay without TLS and HTTP/2, the least that is possible"
    )
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


async def measure(chosen: argparse.Namespace) -> tuple[list[str], Results]:
    load = session.build_load()
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
        if chosen.relay:
            everyone.append(await contenders.relays(stack, bridge, load, session.build_relay()))
        if chosen.access_log:
            everyone.append(await contenders.culvert(stack, bridge, load, folder, access_log=chosen.access_log))
        everyone.append(await contenders.culvert(stack, bridge, load, folder))
        if not chosen.access_log:
            everyone.append(await contenders.envoys(stack, bridge, load, folder))
        for row in rows:
            for contender in everyone if row.once else []:
                await one(row, contender)
        for number in range(chosen.rounds):
            session.progress(f"round {number + 1} of {chosen.rounds}")
            for row in rows:
                for contender in [] if row.once else everyone:
                    await one(row, contender)
        return [contender.name for contender in everyone], results


def table(columns: list[str], results: Results) -> str:
    """Return medians, and the ratios to the peer, the last column; below 1 is better where less is."""
    *_, ours, peer = columns
    compared = [name for name in (contenders.RELAY, ours) if name in columns]
    lines = [["", *columns, *(f"{name} / {peer}" for name in compared), "wanted"]]
    for figure in (figure for row in ROWS for figure in row.figures if figure.key in results):
        found = results[figure.key]
        medians = {name: statistics.median(values) for name, values in found.items()}
        cells = [f"{medians[name]:,.{figure.digits}f}" if name in medians else "" for name in columns]
        ratios = [
            statistics.median(one / theirs for one, theirs in zip(found[name], found[peer], strict=True))
            for name in compared
        ]
        lines.append([figure.title, *cells, *(f"{ratio:.2f}" for ratio in ratios), figure.better])
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    first, *others = widths

    def shown(line: list[str]) -> str:
        cells = [cell.rjust(width) for cell, width in zip(line[1:], others, strict=True)]
        return "  ".join([line[0].ljust(first), *cells])

    return "\n".join(map(shown, lines))


async def main() -> None:
    chosen = options()
    session.check()
    print(table(*await measure(chosen)))


if __name__ == "__main__":
    session.run(main())
