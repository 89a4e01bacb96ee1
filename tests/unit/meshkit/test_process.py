"""How a process starts and ends: signals, exit status, what is logged, and what becomes of its tasks."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator

import pytest
import structlog

from meshkit import log, process
from meshkit.tasks import background


@pytest.fixture(autouse=True)
def configured() -> Iterator[None]:
    log.configure()
    yield
    structlog.reset_defaults()


def run(work: process.Work, **options: tuple[type[Exception], ...]) -> int:
    return process.run("test", work, **options)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_process_in_order(number: signal.Signals) -> None:
    ended: list[str] = []

    async def serve(stop: asyncio.Event) -> None:
        os.kill(os.getpid(), number)
        async with asyncio.timeout(5):
            await stop.wait()
        ended.append("in order")

    assert run(serve) == 0
    assert ended == ["in order"]


class Foreseen(Exception):
    pass


def raises(error: BaseException) -> process.Work:
    async def serve(stop: asyncio.Event) -> None:
        raise error

    return serve


def test_an_error_from_outside_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    grouped = ExceptionGroup("tasks", [ExceptionGroup("more", [OSError(98, "Address already in use")])])
    assert run(raises(grouped)) == process.CANNOT_RUN
    [line] = capsys.readouterr().err.splitlines()
    assert "cannot run" in line
    assert "Address already in use" in line
    assert run(raises(Foreseen()), expected=(Foreseen,)) == process.CANNOT_RUN
    assert 'reason="Foreseen"' in capsys.readouterr().err


def test_a_fault_of_the_process_has_its_own_status_and_a_trace(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(raises(KeyError("lost"))) == process.CRASHED
    logged = capsys.readouterr().err
    assert "KeyError: 'lost'" in logged
    assert "Traceback" in logged
    assert run(raises(process.Fatal("a thread has panicked"))) == process.CRASHED
    logged = capsys.readouterr().err
    assert "a thread has panicked" in logged
    assert "Traceback" not in logged


async def test_the_end_of_a_block_cancels_its_tasks_and_waits_for_them() -> None:
    ended: list[str] = []

    async def work(name: str) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            ended.append(name)

    async with background() as tasks:
        tasks.start(work("first"), work("second"))
        await asyncio.sleep(0)
    assert ended == ["first", "second"]


async def test_the_failure_of_a_task_ends_the_block_and_the_other_tasks() -> None:
    ended: list[str] = []

    def noting(name: str) -> Callable[[], None]:
        return lambda: ended.append(name)

    async def fail() -> None:
        raise OSError("port taken")

    async def other() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            noting("other")()

    with pytest.raises(ExceptionGroup) as raised:
        async with background() as tasks:
            tasks.start(other(), fail())
            try:
                await asyncio.sleep(60)
            finally:
                noting("block")()
    assert isinstance(raised.value.exceptions[0], OSError)
    assert sorted(ended) == ["block", "other"]
