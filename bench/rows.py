"""What is measured, row by row."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from bench import pods
from bench.contenders import PORT, Contender

IDLE_CONNECTIONS = 1000
_PAGE = 4096
_SETTLE_S = 1.0

Figures = dict[str, float]


@dataclass(frozen=True)
class Run:
    """How to measure."""

    load: Path
    seconds: float

    async def client(self, contender: Contender, what: str, number: int) -> Figures:
        """Run a client in the contender's client pod."""
        async with AsyncExitStack() as stack:
            address = (contender.server.ip, str(PORT))
            words = (what, *address, str(number), str(self.seconds))
            process = await contender.client.run(stack, str(self.load), *words)
            out, _ = await asyncio.wait_for(process.communicate(), self.seconds + 30)
            if process.returncode != 0:
                raise RuntimeError(f"{contender.name}: {what} {number} failed; see its words above")
            return dict(json.loads(out))


Measure = Callable[[Run, Contender], Awaitable[Figures]]


@dataclass(frozen=True)
class Figure:
    """A line of the table. ``better`` is what to wish for: ``less`` or ``more``."""

    key: str
    title: str
    better: str
    digits: int = 0


@dataclass(frozen=True)
class Row:
    """What one measurement gives. ``once``: before the rounds, while the proxies are still fresh."""

    name: str
    figures: tuple[Figure, ...]
    measure: Measure
    once: bool = False


def _cpu_ns(pid: int) -> int:
    return sum(int(file.read_text().split()[0]) for file in Path(f"/proc/{pid}/task").glob("*/schedstat"))


def _cpu_us(contender: Contender, before: list[int], count: float) -> float:
    """CPU time that each proxy has used since ``before``, for each of ``count`` events."""
    used = [_cpu_ns(pid) - start for pid, start in zip(contender.proxies, before, strict=True)]
    return _mean([each / count / 1000 for each in used])


def resident_bytes(pid: int | str = "self") -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _round_trip(size: int, name: str) -> Measure:
    async def measure(run: Run, contender: Contender) -> Figures:
        before = [_cpu_ns(pid) for pid in contender.proxies]
        result = await run.client(contender, "rtt", size)
        figures = {f"{name}-p50": result["p50_us"], f"{name}-p99": result["p99_us"]}
        if contender.proxies:
            figures[f"{name}-cpu"] = _cpu_us(contender, before, result["count"])
        return figures

    return measure


def _bulk(connections: int) -> Measure:
    async def measure(run: Run, contender: Contender) -> Figures:
        result = await run.client(contender, "bulk", connections)
        return {f"bulk-{connections}": result["bytes_per_s"] * 8 / 1e9}

    return measure


def _connect(clients: int) -> Measure:
    async def measure(run: Run, contender: Contender) -> Figures:
        before = [_cpu_ns(pid) for pid in contender.proxies]
        result = await run.client(contender, "connect", clients)
        figures = {f"connect-{clients}": result["per_s"]}
        if contender.proxies:
            figures[f"connect-{clients}-cpu"] = _cpu_us(contender, before, result["per_s"] * run.seconds)
        return figures

    return measure


async def _memory(run: Run, contender: Contender) -> Figures:
    if not contender.proxies:
        return {}
    before = [resident_bytes(pid) for pid in contender.proxies]
    async with AsyncExitStack() as stack:
        words = ("idle", contender.server.ip, str(PORT), str(IDLE_CONNECTIONS))
        holder = await contender.client.run(stack, str(run.load), *words)
        await pods.ready(holder, 30)
        await asyncio.sleep(_SETTLE_S)
        grown = [resident_bytes(pid) - start for pid, start in zip(contender.proxies, before, strict=True)]
    await asyncio.sleep(_SETTLE_S)  # the proxies notice that all have gone
    return {
        "idle": _mean([float(size) for size in before]) / 1e6,
        "per-connection": _mean([each / IDLE_CONNECTIONS / 1000 for each in grown]),
    }


ROWS = (
    Row(
        "memory",
        (
            Figure("idle", "resident memory, idle, each proxy, MB", "less", 1),
            Figure("per-connection", "memory per idle tunnelled connection, each proxy, kB", "less", 1),
        ),
        _memory,
        once=True,
    ),
    Row(
        "rtt-64",
        (
            Figure("rtt-64-p50", "64 B round trip p50, µs", "less"),
            Figure("rtt-64-p99", "64 B round trip p99, µs", "less"),
            Figure("rtt-64-cpu", "CPU time per 64 B round trip, each proxy, µs", "less", 1),
        ),
        _round_trip(64, "rtt-64"),
    ),
    Row(
        "rtt-16k",
        (
            Figure("rtt-16k-p50", "16 kB round trip p50, µs", "less"),
            Figure("rtt-16k-p99", "16 kB round trip p99, µs", "less"),
            Figure("rtt-16k-cpu", "CPU time per 16 kB round trip, each proxy, µs", "less"),
        ),
        _round_trip(16 * 1024, "rtt-16k"),
    ),
    Row("bulk-1", (Figure("bulk-1", "bulk, 1 connection, Gbit/s", "more", 1),), _bulk(1)),
    Row("bulk-8", (Figure("bulk-8", "bulk, 8 connections, Gbit/s", "more", 1),), _bulk(8)),
    Row("connect-1", (Figure("connect-1", "new connections per second, 1 client", "more"),), _connect(1)),
    Row(
        "connect-8",
        (
            Figure("connect-8", "new connections per second, 8 clients", "more"),
            Figure("connect-8-cpu", "CPU time per new connection, each proxy, µs", "less"),
        ),
        _connect(8),
    ),
)
