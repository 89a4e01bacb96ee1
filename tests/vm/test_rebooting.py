"""A node that loses its power under traffic: nothing of an enrolled pod leaves in plain text, then or afterwards."""

import json
import shutil
import struct
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from meshapi import names
from meshlab import product
from tests.support.lab import ROOT
from tests.vm import inner, kernel, machine, selection
from tests.vm.rebooting import ENROLLED, OUTSIDE, SECRETS, Left

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not inner.IS_THOROUGH, reason="two boots of an emulated machine: a part of `make vm`"),
]

_LIMIT_S = 400
_TUNNEL = 15008
_ETHERNET, _IPV4, _TCP = 14, 0x0800, 6


def packets(file: Path) -> Iterator[bytes]:
    """Yield the frames of a file of tcpdump's; the last one may be cut off."""
    content = file.read_bytes()
    assert content[:4] == struct.pack("<I", 0xA1B2C3D4), "not tcpdump's format"
    at = 24
    while at + 16 <= len(content):
        _, _, size, _ = struct.unpack_from("<IIII", content, at)
        yield content[at + 16 : at + 16 + size]
        at += 16 + size


def in_plain_text(frames: Iterator[bytes], address: str) -> list[bytes]:
    """Return the frames of an address that have bytes and are not a tunnel's."""
    return [frame for frame in frames if _has_payload(frame, IPv4Address(address).packed)]


def _has_payload(frame: bytes, source: bytes) -> bool:
    packet = frame[_ETHERNET:]
    if frame[12:14] != struct.pack(">H", _IPV4) or source not in (packet[12:16], packet[16:20]):
        return False
    if packet[9] != _TCP:
        return True
    segment = packet[(packet[0] & 15) * 4 : struct.unpack_from(">H", packet, 2)[0]]
    return _TUNNEL not in struct.unpack_from(">HH", segment) and len(segment) > (segment[12] >> 4) * 4


@pytest.mark.parametrize("backend", ["nftables", "ebpf"])
def test_no_byte_of_an_enrolled_pod_leaves_in_plain_text_before_and_after_a_power_cut(
    backend: str, tmp_path: Path
) -> None:
    if backend == "ebpf" and kernel.is_older_than(5, 17):
        pytest.skip(selection.NO_EBPF)
    exchange, disk = tmp_path / "exchange", machine.disk(tmp_path / "disk")
    exchange.mkdir()
    shutil.copy(product.cni_plugin(print) / names.CNI_PLUGIN_NAME, exchange / "plugin")
    before, after = Left(exchange, 1), Left(exchange, 2)
    env = {"PYTHONPATH": str(ROOT), **inner.ENVIRONMENT}
    image = kernel.obtain()
    seconds = machine.power_cut(
        image, _command(1, backend), exchange, cwd=ROOT, env=env, limit_s=_LIMIT_S, disk=disk, when=lambda: before.works
    )
    done = machine.run(image, _command(2, backend), exchange, cwd=ROOT, env=env, limit_s=_LIMIT_S, disk=disk)
    print(f"the machine ran for {seconds:.0f} s and for {done.seconds:.0f} s")
    assert done.status == 0, f"{done.output}\n{done.console}"
    refusals = json.loads(after.held_back.read_text())
    assert all("culvert-cni" in text for pod in SECRETS for text in refusals[pod]), refusals
    for left in (before, after):
        assert left.works
        content = left.link.read_bytes()
        assert SECRETS[OUTSIDE].encode() in content, "the other pod's bytes are seen, so these would be too"
        assert SECRETS[ENROLLED].encode() not in content
        address = left.log(ENROLLED).read_text().split()[0]
        assert in_plain_text(packets(left.link), address) == []


def _command(boot: int, backend: str) -> str:
    mounted = f"modprobe virtio_blk && mkdir /run/disk && mount {machine.DISK} /run/disk"
    return f"{mounted} && {sys.executable} -m tests.vm.rebooting {machine.EXCHANGE} /run/disk {boot} {backend}"
