"""Threat ``framing-mismatch``: framing mismatch: bytes before the answer, bodies that are announced (CVE-2024-23326,
CVE-2025-64763).
"""

import pytest
from hyperframe import frame as frames

from meshapi.proto import authorization_pb2
from tests.integration.threats.conftest import PORT, Scene
from tests.support.waiting import until

pytestmark = pytest.mark.root


async def test_bytes_that_do_not_wait_for_the_answer_arrive_in_order(scene: Scene) -> None:
    async with scene.attack() as attack:
        attack.connect(1, scene.authority)
        for part in (b"one ", b"two ", b"three"):
            attack.send(frames.DataFrame(1, part))
        await attack.answer(1)
        await until(lambda: attack.data(1) == f"{scene.outsider.ip} one two three".encode())


@pytest.mark.parametrize("refusal", ["policy", "no-listener", "wrong-address", "no-port"])
async def test_bytes_after_a_refused_connect_reach_no_application(scene: Scene, refusal: str) -> None:
    authority = {
        "policy": scene.authority,
        "no-listener": f"{scene.server.ip}:81",
        "wrong-address": f"{scene.client.ip}:{PORT}",
        "no-port": scene.server.ip,
    }[refusal]
    if refusal == "policy":
        presence = authorization_pb2.StringMatch(presence={})
        scene.mesh.deny("everyone", scope=authorization_pb2.GLOBAL, principals=[presence])
    smuggled = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
    async with scene.attack() as attack:
        attack.connect(1, authority)
        attack.send(frames.DataFrame(1, smuggled))
        answer = await attack.answer(1)
        assert isinstance(answer, frames.HeadersFrame)
        assert "END_STREAM" in answer.flags
        assert attack.data(1) == b""
        # The tunnel goes on: what was smuggled is not taken for the next request.
        attack.connect(3, f"{scene.server.ip}:81")
        await attack.answer(3)
        assert await attack.is_alive()
    assert scene.seen == []


@pytest.mark.parametrize(
    "extra",
    [
        [("content-length", "3")], [("content-length", "0")], [("transfer-encoding", "chunked")],
        [("upgrade", "websocket"), ("connection", "upgrade")], [(":path", "/x"), (":scheme", "http")],
        [(":protocol", "websocket")], [("content-length", "1"), ("content-length", "2")],
    ],
    ids=lambda extra: "+".join(name for name, _ in extra),
)  # fmt: skip
async def test_announced_bodies_and_upgrades_are_refused_or_ignored(scene: Scene, extra: list[tuple[str, str]]) -> None:
    """Either the request is malformed and reset, or the announcement is ignored: all bytes pass, none is added."""
    pseudo = [pair for pair in extra if pair[0].startswith(":")]
    others = [pair for pair in extra if not pair[0].startswith(":")]
    async with scene.attack() as attack:
        attack.headers(1, [(":method", "CONNECT"), (":authority", scene.authority), *pseudo, *others])
        attack.send(frames.DataFrame(1, b"hello, hello"))
        answer = await attack.wait(
            lambda one: isinstance(one, frames.HeadersFrame | frames.RstStreamFrame | frames.GoAwayFrame)
        )
        if isinstance(answer, frames.HeadersFrame) and "END_STREAM" not in answer.flags:
            await attack.wait(
                lambda one: attack.data(1).endswith(b"hello, hello") or isinstance(one, frames.RstStreamFrame)
            )
            received = attack.data(1).removeprefix(f"{scene.outsider.ip} ".encode())
            assert b"hello, hello".startswith(received)
        assert not attack.data(1) or scene.seen


async def test_a_connect_that_ends_at_once_is_an_empty_connection(scene: Scene) -> None:
    async with scene.attack() as attack:
        attack.connect(1, scene.authority, end=True)
        await attack.answer(1)
        await attack.wait(lambda one: isinstance(one, frames.DataFrame) and "END_STREAM" in one.flags)
        assert attack.data(1) == f"{scene.outsider.ip} ".encode()
