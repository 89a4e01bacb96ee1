"""Threat ``odd-addresses``: crashes on odd addresses and names (CVE-2026-26310, CVE-2024-53269, CVE-2026-48497)."""

import pytest
from hpack import Decoder
from hyperframe import frame as frames

from meshapi.proto import authorization_pb2
from tests.integration.threats.conftest import PORT, Scene

pytestmark = pytest.mark.root

NOT_FOR_US = [
    # Scoped, with and without escapes; other forms of IPv4 that some parsers take.
    "[fe80::1%eth0]:80", "[fe80::1%25eth0]:80", "fe80::1%eth0:80", "[::ffff:10.77.0.99]:80", "[::]:80", "0.0.0.0:80",
    "127.0.0.1:80", "[::1]:80", "169.254.169.254:80", "255.255.255.255:80", "224.0.0.1:80", "010.077.0.10:80",
    "0x0a4d000a:80", "172818442:80", "10.77.10:80", "10.77.0.10.:80", "[10.77.0.10:80", "10.77.0.10]:80",
    # Ports.
    "10.77.0.10",
    "10.77.0.10:", "10.77.0.10:0", "10.77.0.10:65536", "10.77.0.10:-1", "10.77.0.10:+80", "10.77.0.10: 80",
    "10.77.0.10:15001", "10.77.0.10:15006", "10.77.0.10:15008", "10.77.0.10:99999999999999999999",
    # Names: as long as one may be, longer, with labels that are too long, empty, or no name at all.
    f"{'a.' * 127}a:80", f"{'a.' * 127}ab:80", f"{'a' * 64}.example:80", f"{'a' * 8000}:80", "..:80", ".:80", ":80", "",
    "*:80", "web.shop.svc.cluster.local.evil:80", "ex\u00e4mple:80", "a b:80", "a\tb:80", "a/b:80", "a?b:80", "a#b:80",
    "user@10.77.0.10:8080", "user:pw@web:80", "http://web:80", "web:80:80", "[]:80", "[web]:80", "%77eb:80",
]  # fmt: skip


async def answer(attack, stream: int, authority: str) -> str | None:
    """The status, or ``None`` where the request was reset as malformed."""
    attack.connect(stream, authority)
    found = await attack.answer(stream)
    if isinstance(found, frames.RstStreamFrame):
        return None
    return attack_status(attack, stream)


def attack_status(attack, stream: int) -> str:
    decoder = Decoder()
    for frame in attack.received:
        if isinstance(frame, frames.HeadersFrame):
            headers = dict(decoder.decode(frame.data))
            if frame.stream_id == stream:
                return headers[":status"]
    raise AssertionError(stream)


async def test_no_malformed_authority_reaches_an_application(scene: Scene) -> None:
    reached: list[str] = []

    async def noted(_, writer) -> None:
        reached.append("80")
        writer.close()

    await scene.server.serve(80, noted)
    async with scene.others_are_served(), scene.attack() as attack:
        for number, authority in enumerate(NOT_FOR_US):
            status = await answer(attack, 2 * number + 1, authority)
            assert status in {None, "400", "503"}, (authority, status)
            assert await attack.is_alive(), authority
    assert reached == []
    assert set(scene.seen) == {scene.client.ip}


async def test_policy_treats_an_ipv4_mapped_address_as_ipv4(scene: Scene) -> None:
    mapped = f"[::ffff:{scene.server.ip}]:{PORT}"
    async with scene.attack() as attack:
        assert await answer(attack, 1, mapped) == "200"
        inside = bytes(10) + b"\xff\xff" + bytes(map(int, scene.outsider.ip.split(".")))
        scene.mesh.deny("mapped", source_ips=[authorization_pb2.Address(address=inside, length=128)])
        assert await answer(attack, 3, mapped) == "401"
        assert await answer(attack, 5, scene.authority) == "401"
    assert (await scene.client.request(scene.server.ip, PORT)).endswith(b"hello")
