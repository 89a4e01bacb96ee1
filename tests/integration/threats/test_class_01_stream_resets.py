"""Class 1, HTTP/2 stream abuse: rapid reset (CVE-2023-44487), more streams than allowed."""

import pytest
from hyperframe import frame as frames

from meshapi.proto import authorization_pb2
from tests.integration.threats.conftest import Costs, Scene
from tests.support.waiting import until

pytestmark = pytest.mark.root

ENHANCE_YOUR_CALM = 11
REFUSED_STREAM = 7
CANCEL = 8


async def test_resets_without_pause_end_the_connection(scene: Scene) -> None:
    costs = Costs.now()
    async with scene.others_are_served(), scene.attack() as attack:
        for stream in range(1, 40_000, 2):
            attack.connect(stream, scene.authority)
            attack.send(frames.RstStreamFrame(stream, CANCEL))
            if stream % 1000 == 1 and not await attack.flush():
                break
        assert await attack.hung_up()
    # The application has hardly noticed: a dial for each stream would be an attack on it by our hand.
    assert len(scene.seen) < 2_000
    assert costs.memory_mib < 64
    await until(lambda: scene.server.node.engine.connections() == 0)


async def test_resets_in_small_portions_do_not_pile_up(scene: Scene) -> None:
    """Slow enough not to be noticed as a flood: each stream still costs no more than a connection opened and closed."""
    costs = Costs.now()
    async with scene.others_are_served(), scene.attack() as attack:
        for stream in range(1, 4_000, 2):
            attack.connect(stream, scene.authority)
            attack.send(frames.RstStreamFrame(stream, CANCEL))
            if stream % 20 == 1 and not (await attack.flush() and await attack.is_alive()):
                break
    assert costs.memory_mib < 64
    await until(lambda: scene.server.node.engine.connections() == 0)


async def test_more_streams_than_allowed_are_refused_and_the_others_stand(scene: Scene) -> None:
    async with scene.attack() as attack:
        settings = next(one for one in attack.received if isinstance(one, frames.SettingsFrame))
        limit = settings.settings[frames.SettingsFrame.MAX_CONCURRENT_STREAMS]
        assert 100 <= limit <= 200
        for number in range(limit + 1):
            attack.connect(2 * number + 1, scene.authority)
        over = await attack.answer(2 * limit + 1)
        assert isinstance(over, frames.RstStreamFrame)
        assert over.error_code == REFUSED_STREAM
        for number in range(limit):
            assert isinstance(await attack.answer(2 * number + 1), frames.HeadersFrame)
        attack.send(frames.DataFrame(1, b"still there"))
        await until(lambda: attack.data(1).endswith(b"still there"))


async def test_streams_that_policy_refuses_cost_no_dial(scene: Scene) -> None:
    presence = authorization_pb2.StringMatch(presence={})
    scene.mesh.deny("nobody", scope=authorization_pb2.GLOBAL, principals=[presence])
    async with scene.attack() as attack:
        for stream in range(1, 2_000, 2):
            attack.connect(stream, scene.authority)
            if stream % 100 == 99:
                await attack.answer(stream)
    assert scene.seen == []
