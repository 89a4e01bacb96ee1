"""Threat ``header-memory``: header memory amplification: little on the wire, much when decoded (CVE-2026-47774)."""

import pytest
from hpack import Encoder
from hyperframe import frame as frames

from tests.integration.threats.conftest import Costs, Scene

pytestmark = pytest.mark.root


def bomb(stream: int, header: tuple[str, str], times: int, authority: str) -> bytes:
    """A header that is written once into the table and then referred to with one byte each."""
    encoder = Encoder()
    block = encoder.encode([(":method", "CONNECT"), (":authority", authority), header])
    reference = encoder.encode([header])
    assert len(reference) == 1
    return frames.HeadersFrame(stream, block + reference * times, flags=["END_HEADERS"]).serialize()


@pytest.mark.parametrize("name", ["x", "cookie", "baggage"])
async def test_the_header_limit_applies_to_decoded_headers(scene: Scene, name: str) -> None:
    """60 kB on the wire, 240 MB decoded."""
    costs = Costs.now()
    async with scene.others_are_served():
        for _ in range(5):
            async with scene.attack() as attack:
                attack.send(bomb(1, (name, "v" * 4000), 60_000, scene.authority))
                refused = await attack.wait(
                    lambda one: isinstance(one, frames.HeadersFrame | frames.RstStreamFrame | frames.GoAwayFrame)
                )
                if isinstance(refused, frames.HeadersFrame):  # 431
                    assert "END_STREAM" in refused.flags
    assert len(scene.seen) == 2  # those of the honest client
    assert costs.memory_mib < 64
    assert costs.engine_cpu_s < 5


async def test_cookie_crumbs_count_together_towards_the_header_limit(scene: Scene) -> None:
    async with scene.attack() as attack:
        encoder = Encoder()
        crumbs = [("cookie", f"a{number}=b") for number in range(20_000)]
        block = encoder.encode([(":method", "CONNECT"), (":authority", scene.authority), *crumbs])
        attack.send(frames.HeadersFrame(1, block[:500_000], flags=["END_HEADERS"]))
        await attack.wait(
            lambda one: (
                isinstance(one, frames.RstStreamFrame | frames.GoAwayFrame)
                or (isinstance(one, frames.HeadersFrame) and "END_STREAM" in one.flags)
            )
        )
    assert scene.seen == []
