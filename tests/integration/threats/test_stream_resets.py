"""Threat ``stream-abuse``: HTTP/2 stream abuse: rapid reset (CVE-2023-44487), more streams than allowed."""

import pytest
from hyperframe import frame as frames

from meshapi.proto import authorization_pb2
from tests.integration.threats.conftest import PORT, Costs, Scene
from tests.support import namespaced
from tests.support.waiting import until

pytestmark = pytest.mark.root

ENHANCE_YOUR_CALM = 11
REFUSED_STREAM = 7
CANCEL = 8


async def test_continuous_resets_close_the_connection(scene: Scene) -> None:
    costs = Costs.now()
    async with scene.others_are_served(), scene.attack() as attack:
        for stream in range(1, 40_000, 2):
            attack.connect(stream, scene.authority)
            attack.send(frames.RstStreamFrame(stream, CANCEL))
            if stream % 1000 == 1 and not await attack.flush():
                break
        assert await attack.hung_up()
    # The application is hardly affected: with a dial for each stream, ztunnel would amplify the attack.
    assert len(scene.seen) < 2_000
    assert costs.memory_mib < 64
    await until(lambda: scene.server.node.engine.connections() == 0)


async def test_resets_in_small_batches_do_not_accumulate(scene: Scene) -> None:
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


async def test_streams_over_the_limit_are_refused_and_the_others_go_on(scene: Scene) -> None:
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


async def test_the_connection_limit_of_a_pod_covers_all_tunnels() -> None:
    """Three tunnels of 40 connections each, with 60 permits: a tunnel takes one, and each connection in it."""
    async with namespaced.mesh(settings={"max_connections_per_workload": 60}) as mesh:
        server = await mesh.pod("server", node=1)
        neighbour = await mesh.pod("neighbour", node=1)
        client = await mesh.pod("client")
        outsider = await mesh.pod("outsider", captured=False)
        scene = Scene(mesh, server, client, outsider, await server.serve_peer(PORT))
        await neighbour.serve_peer(PORT)
        async with scene.attack() as first, scene.attack() as second, scene.attack() as third:
            answers = []
            for attack in (first, second, third):
                for number in range(40):
                    attack.connect(2 * number + 1, scene.authority)
                answers += [await attack.answer(2 * number + 1) for number in range(40)]
            accepted = [one for one in answers if "END_STREAM" not in one.flags]
            assert len(accepted) == len(scene.seen) == 60 - 3
            assert scene.metric("culvert_connections_rejected", reason="connection_limit") == 120 - len(accepted)
            # Open connections go on, and the limit is this pod's alone.
            first.send(frames.DataFrame(1, b"still there"))
            await until(lambda: first.data(1).endswith(b"still there"))
            assert (await client.request(neighbour.ip, PORT)).endswith(b"hello")
            with pytest.raises(OSError):
                await client.request(server.ip, PORT)
        # Permits are returned.
        await until(lambda: server.node.engine.connections() == 0)
        assert (await client.request(server.ip, PORT)).endswith(b"hello")


async def test_streams_that_policy_refuses_cost_no_dial(scene: Scene) -> None:
    presence = authorization_pb2.StringMatch(presence={})
    scene.mesh.deny("everyone", scope=authorization_pb2.GLOBAL, principals=[presence])
    async with scene.attack() as attack:
        for stream in range(1, 2_000, 2):
            attack.connect(stream, scene.authority)
            if stream % 100 == 99:
                await attack.answer(stream)
    assert scene.seen == []
