"""Threat ``teardown``: lifetime faults on reset and teardown: a peer that vanishes after any byte leaves nothing
behind.
"""

import asyncio

import pytest
from hpack import Encoder
from hyperframe import frame as frames

from tests.integration.threats.conftest import PORT, Costs, Scene
from tests.support import attacker, namespaced
from tests.support.waiting import until

pytestmark = pytest.mark.root


def transcript(authority: str) -> bytes:
    """The bytes of a well-behaved client, from the preface to the end."""
    block = Encoder().encode([(":method", "CONNECT"), (":authority", authority), ("baggage", "service.name=x")])
    items = [
        frames.SettingsFrame(0, settings={frames.SettingsFrame.INITIAL_WINDOW_SIZE: 1000}),
        frames.HeadersFrame(1, block, flags=["END_HEADERS"]),
        frames.DataFrame(1, b"hello"),
        frames.WindowUpdateFrame(1, 10),
        frames.DataFrame(1, b"", flags=["END_STREAM"]),
        frames.GoAwayFrame(0, last_stream_id=0, error_code=0),
    ]
    return attacker.PREFACE + b"".join(item.serialize() for item in items)


@pytest.mark.parametrize("how", ["reset", "end"])
async def test_closing_after_any_byte_leaks_nothing(scene: Scene, how: str) -> None:
    sent = transcript(scene.authority)
    authority = scene.mesh.authority
    context = attacker.tls_context(*authority.issue(scene.outsider.identity), authority.roots)
    engine = scene.server.node.engine
    async with scene.others_are_served():
        held, costs = engine.held(), Costs.now()

        async def close_after(length: int) -> None:
            _, writer = await attacker.tls_to(scene.outsider, scene.server, context)
            writer.write(sent[:length])
            await writer.drain()
            # A different moment each time: before, while and after the application is dialled.
            await asyncio.sleep((length % 7) / 1000)
            if how == "reset":
                writer.transport.abort()
            else:
                writer.close()
                await asyncio.gather(writer.wait_closed(), return_exceptions=True)

        for start in range(0, len(sent), 16):
            await asyncio.gather(*(close_after(length) for length in range(start, min(start + 16, len(sent) + 1))))
        await until(lambda: engine.held() == held)
        assert costs.memory_mib < 64
    await until(lambda: engine.connections() == 0)
    assert scene.metric("culvert_connections_rejected", reason="internal_error") == 0


@pytest.fixture
async def hasty():
    """A scene whose pods are removed without a drain period."""
    async with namespaced.mesh(settings={"removal_accept_ms": 50, "removal_drain_ms": 200}) as mesh:
        server = await mesh.pod("server", node=1)
        client = await mesh.pod("client")
        outsider = await mesh.pod("outsider", captured=False)
        yield Scene(mesh, server, client, outsider, await server.serve_peer(PORT))


async def test_removing_a_pod_during_a_connection_leaks_nothing(hasty: Scene) -> None:
    scene = hasty
    engine = scene.server.node.engine
    for turn in range(10):
        async with scene.attack() as attack:
            for stream in range(1, 40, 2):
                attack.connect(stream, scene.authority)
                attack.send(frames.DataFrame(stream, b"x" * 1000))
            await asyncio.sleep(turn / 1000)
            scene.server.node.stopped.discard(scene.server.uid)
            engine.remove_workload(scene.server.uid)
        await until(lambda: scene.server.uid in scene.server.node.stopped, within_s=30)
        await until(lambda: engine.connections() == 0 and engine.held() == 0)
        await scene.mesh.enrol(scene.server)
    assert (await scene.client.request(scene.server.ip, PORT)).endswith(b"hello")
    assert scene.metric("culvert_connections_rejected", reason="internal_error") == 0
