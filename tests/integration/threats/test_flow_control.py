"""Threat ``flow-control``: readers that do not read, windows that do not open or overflow."""

import asyncio

import pytest
from hyperframe import frame as frames

from tests.integration.threats.conftest import Costs, Scene
from tests.support.waiting import until

pytestmark = pytest.mark.root

CHATTY = 8081
FLOW_CONTROL_ERROR = 3
WINDOW = frames.SettingsFrame.INITIAL_WINDOW_SIZE


async def chatty(scene: Scene) -> list[int]:
    """An application that sends for as long as its writes succeed; returns the bytes written on each connection."""
    taken: list[int] = []

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        mine = len(taken)
        taken.append(0)
        try:
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()
                taken[mine] += 65536
        except OSError:
            pass
        finally:
            writer.close()

    await scene.server.serve(CHATTY, talk)
    return taken


async def stopped(taken: list[int], within_s: float = 20) -> None:
    """Wait until the application can write no more: half a second without a byte."""
    async with asyncio.timeout(within_s):
        before = -1
        while (total := sum(taken)) != before:
            before = total
            await asyncio.sleep(0.5)


async def test_a_window_that_never_opens_blocks_the_applications_writes(scene: Scene) -> None:
    taken = await chatty(scene)
    costs = Costs.now()
    async with scene.others_are_served(), scene.attack(settings={WINDOW: 0}) as attack:
        for number in range(100):
            attack.connect(2 * number + 1, f"{scene.server.ip}:{CHATTY}")
        await attack.answer(199)
        await until(lambda: len(taken) == 100)
        await stopped(taken)
        assert not any(attack.data(2 * number + 1) for number in range(100))
        # What the application has written is in socket buffers; the engine holds one read of each stream.
        assert costs.memory_mib < 128
    await until(lambda: scene.server.node.engine.connections() == 0)


async def test_data_buffered_for_a_stopped_reader_is_bounded(scene: Scene) -> None:
    """Large windows and a full socket buffer: bytes for the stopped reader wait in the engine, within a bound."""
    taken = await chatty(scene)
    costs = Costs.now()
    async with scene.others_are_served(), scene.attack(settings={WINDOW: 2**31 - 1}) as attack:
        attack.send(frames.WindowUpdateFrame(0, 2**31 - 65536))
        attack.writer.transport.pause_reading()
        for number in range(100):
            attack.connect(2 * number + 1, f"{scene.server.ip}:{CHATTY}")
        await until(lambda: len(taken) == 100)
        await stopped(taken)
        assert costs.memory_mib < 128
    await until(lambda: scene.server.node.engine.connections() == 0)


@pytest.mark.parametrize("stream", [0, 1])
async def test_a_window_that_overflows_is_an_error(scene: Scene, stream: int) -> None:
    async with scene.attack() as attack:
        attack.connect(1, scene.authority)
        await attack.answer(1)
        attack.send(frames.WindowUpdateFrame(stream, 2**31 - 1), frames.WindowUpdateFrame(stream, 2**31 - 1))
        if stream == 0:
            assert await attack.hung_up()
            assert attack.goaway == FLOW_CONTROL_ERROR
        else:
            reset = await attack.wait(lambda one: isinstance(one, frames.RstStreamFrame | frames.GoAwayFrame))
            assert reset.error_code == FLOW_CONTROL_ERROR


async def test_windows_that_shrink_below_zero_and_grow_again_lose_nothing(scene: Scene) -> None:
    async with scene.attack(settings={WINDOW: 1000}) as attack:
        attack.connect(1, scene.authority)
        await attack.answer(1)
        attack.send(frames.DataFrame(1, b"y" * 16_000))
        for size in (0, 5, 0, 100_000):
            attack.send(frames.SettingsFrame(0, settings={WINDOW: size}))
            assert await attack.is_alive()
        await until(lambda: attack.data(1).endswith(b"y" * 16_000))


async def test_a_stream_limit_of_zero_after_goaway_lets_open_streams_finish(scene: Scene) -> None:
    """CVE-2021-32780: SETTINGS_MAX_CONCURRENT_STREAMS of 0 behind a GOAWAY."""
    async with scene.others_are_served(), scene.attack() as attack:
        attack.connect(1, scene.authority)
        await attack.answer(1)
        attack.send(
            frames.GoAwayFrame(0, last_stream_id=1, error_code=0),
            frames.SettingsFrame(0, settings={frames.SettingsFrame.MAX_CONCURRENT_STREAMS: 0}),
        )
        attack.send(frames.DataFrame(1, b"last words", flags=["END_STREAM"]))
        await until(lambda: attack.data(1).endswith(b"last words"))
