"""Threat ``frame-floods``: floods of small frames (RUSTSEC-2026-0258 and kin), and frames that are too large."""

from collections.abc import Callable

import pytest
from hyperframe import frame as frames

from tests.integration.threats.conftest import Costs, Scene
from tests.support.attacker import FLOOD

pytestmark = pytest.mark.root

FRAME_SIZE_ERROR = 6
FLOODS: dict[str, Callable[[], frames.Frame]] = {
    "empty-data": lambda: frames.DataFrame(1, b""),
    "padded-data": lambda: frames.DataFrame(1, b"", pad_length=1, flags=["PADDED"]),
    "ping": lambda: frames.PingFrame(0, FLOOD),
    "ping-ack": lambda: frames.PingFrame(0, FLOOD, flags=["ACK"]),
    "settings": lambda: frames.SettingsFrame(0, settings={frames.SettingsFrame.INITIAL_WINDOW_SIZE: 1}),
    "settings-empty": lambda: frames.SettingsFrame(0),
    "settings-ack": lambda: frames.SettingsFrame(0, flags=["ACK"]),
    "window-update": lambda: frames.WindowUpdateFrame(0, 1),
    "stream-window-update": lambda: frames.WindowUpdateFrame(1, 1),
    "priority": lambda: frames.PriorityFrame(1, depends_on=3),
    "priority-of-idle": lambda: frames.PriorityFrame(100_001, depends_on=100_003),
    "reset-of-closed": lambda: frames.RstStreamFrame(1, 8),
    "unknown-type": lambda: frames.ExtensionFrame(type=0x77, stream_id=0, body=b"x"),
    "goaway": lambda: frames.GoAwayFrame(0, last_stream_id=0, error_code=0),
}


@pytest.mark.parametrize("kind", FLOODS)
async def test_a_flood_affects_only_its_sender(scene: Scene, kind: str) -> None:
    """Half a million frames at most; the engine takes or refuses them in bounded memory and serves the others."""
    costs = Costs.now()
    async with scene.others_are_served(), scene.attack() as attack:
        attack.connect(1, scene.authority)
        await attack.answer(1)
        many = FLOODS[kind]().serialize() * 2_000
        for _ in range(100):
            attack.send(many)
            if not await attack.flush():
                break
    assert costs.memory_mib < 64
    assert costs.engine_cpu_s < 10


async def test_unread_answers_do_not_accumulate(scene: Scene) -> None:
    """PING and SETTINGS require answers: while the client does not read them, the engine stops reading."""
    costs = Costs.now()
    async with scene.others_are_served(), scene.attack() as attack:
        attack.writer.transport.pause_reading()
        many = (frames.PingFrame(0, FLOOD).serialize() + frames.SettingsFrame(0).serialize()) * 2_000
        sent = 0
        while sent < 64 * 1024 * 1024 and await attack.flush(within_s=1):
            attack.send(many)
            sent += len(many)
        assert sent < 64 * 1024 * 1024
        attack.writer.transport.resume_reading()
    assert costs.memory_mib < 64


async def test_a_frame_larger_than_announced_is_refused_at_its_head(scene: Scene) -> None:
    async with scene.attack() as attack:
        settings = next(one for one in attack.received if isinstance(one, frames.SettingsFrame))
        largest = settings.settings[frames.SettingsFrame.MAX_FRAME_SIZE]
        attack.connect(1, scene.authority)
        await attack.answer(1)
        # The head alone, without a byte of the body.
        attack.send((largest + 1).to_bytes(3) + b"\x00\x00" + (1).to_bytes(4))
        assert await attack.hung_up()
        assert attack.goaway == FRAME_SIZE_ERROR
