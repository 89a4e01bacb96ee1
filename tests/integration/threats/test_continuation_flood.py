"""Threat ``continuation-flood``: CONTINUATION without end (RUSTSEC-2024-0332, CVE-2024-27919, CVE-2024-30255)."""

import pytest
from hpack import Encoder
from hyperframe import frame as frames

from tests.integration.threats.conftest import Costs, Scene

pytestmark = pytest.mark.root

# One header that is not over: a literal with a name of one byte and a value of many, and never the last frame.
_START = Encoder().encode([(":method", "CONNECT"), (":authority", "10.0.0.1:80")])


@pytest.mark.parametrize(
    "part",
    [b"", b"\x00", Encoder().encode([("x", "y" * 100)]), Encoder().encode([("x", "y" * 4000)]) * 4],
    ids=["empty", "one-byte", "small", "large"],
)
async def test_endless_continuation_frames_close_the_connection(scene: Scene, part: bytes) -> None:
    costs = Costs.now()
    async with scene.others_are_served(), scene.attack() as attack:
        attack.send(frames.HeadersFrame(1, _START))
        more = frames.ContinuationFrame(1, part).serialize() * 64
        for _ in range(64 * 1024 * 1024 // len(more)):
            attack.send(more)
            if not await attack.flush():
                break
        assert await attack.hung_up(), "64 MiB of CONTINUATION were taken"
    assert costs.memory_mib < 64
    assert costs.engine_cpu_s < 5
