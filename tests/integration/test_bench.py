"""The bench runs through, prints every row, and leaves nothing, also when it is interrupted."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from meshkit.linux import netns

pytestmark = pytest.mark.root


@asynccontextmanager
async def bench(*options: str, what: str = "tunnel") -> AsyncIterator[Process]:
    # Who runs tests in the background may have SIGINT ignored, and children inherit that.
    argv = ["env", "--default-signal=INT", sys.executable, "-m", f"bench.{what}", *options]
    process = await asyncio.create_subprocess_exec(*argv, stdout=PIPE, stderr=PIPE, start_new_session=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


def left_behind(process: Process) -> set[str]:
    return {name for name in netns.names() if name.startswith(f"cb{process.pid}")}


async def test_the_bench_prints_a_ratio_for_every_row() -> None:
    async with bench("--rounds", "1", "--seconds", "0.1", "--relay") as running:
        out, err = await asyncio.wait_for(running.communicate(), 120)
    assert running.returncode == 0, err.decode()
    head, *rows = out.decode().splitlines()
    assert " ".join(head.split()) == "bare TCP relay Culvert Envoy relay / Envoy Culvert / Envoy wanted"
    assert len(rows) == 13
    for row in rows:
        *_, least, ratio, wanted = row.split()
        assert float(least) > 0
        assert float(ratio) > 0
        assert wanted in ("less", "more")
    assert left_behind(running) == set()


async def test_the_bench_of_floods_prints_a_ratio_for_each() -> None:
    async with bench("--rounds", "1", "--seconds", "0.1", what="fairness") as running:
        out, err = await asyncio.wait_for(running.communicate(), 120)
    assert running.returncode == 0, err.decode()
    _, *rows = out.decode().splitlines()
    assert len(rows) == 5
    assert all(float(row.split()[-2]) > 0 for row in rows)
    assert left_behind(running) == set()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_bench_leaves_nothing(how: signal.Signals) -> None:
    async with bench("--rounds", "9", "--seconds", "9") as running:
        assert running.stderr is not None
        await asyncio.wait_for(running.stderr.readuntil(b"round 1"), 60)
        assert left_behind(running) != set()
        os.kill(running.pid, how)
        await asyncio.wait_for(running.communicate(), 30)
    assert running.returncode == 130
    assert left_behind(running) == set()


async def test_the_bench_of_the_control_plane_brings_every_event_to_every_stream() -> None:
    options = ("--pods=100", "--services=10", "--nodes=2", "--streams=3", "--seconds=1")
    async with bench(*options, what="controlplane") as running:
        out, err = await asyncio.wait_for(running.communicate(), 120)
    assert running.returncode == 0, err.decode()
    assert "event to last stream" in out.decode()
