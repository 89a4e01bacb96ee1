"""Pages for callers on this host only."""

import socket

import aiohttp
import pytest

from meshkit import admin
from tests.support.ports import free_port


def own_address() -> str:
    """An address of this machine that is not on loopback; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])


@pytest.mark.parametrize("bound", ["0.0.0.0", ""])
async def test_a_loopback_page_is_refused_to_other_callers(bound: str) -> None:
    port = free_port()
    page = admin.loopback_only(admin.text_page("who is in sync"))
    headers = {"X-Forwarded-For": "127.0.0.1", "Forwarded": "for=127.0.0.1", "Host": "localhost"}
    async with admin.serve([(bound, port)], {"GET /debug/syncz": page}), aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/debug/syncz") as answer:
            assert (answer.status, await answer.text()) == (200, "who is in sync")
        async with session.get(f"http://{own_address()}:{port}/debug/syncz", headers=headers) as answer:
            assert answer.status == 403
            assert "port-forward" in await answer.text()
