"""Admin pages of every proxy process."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiohttp
import pytest

from meshkit import admin, log
from meshproxy import admin as pages
from meshproxy.settings import ProxySettings
from tests.support.ports import free_port


@contextlib.asynccontextmanager
async def served() -> AsyncIterator[str]:
    settings = ProxySettings(node_name="n1", pod_name="p", service_account="a", log_level=log.Level.WARN)
    port = free_port()
    try:
        async with admin.serve([("127.0.0.1", port)], pages.routes(settings, asyncio.Event())):
            yield f"http://127.0.0.1:{port}/logging"
    finally:
        log.configure()


async def test_the_log_level_is_read_set_and_reset() -> None:
    async with served() as url, aiohttp.ClientSession() as session:

        async def set_level(query: str) -> str:
            async with session.post(url + query) as answer:
                assert answer.status == 200
                return (await answer.text()).removeprefix("current log level is ").strip()

        assert await set_level("") == "warn"
        assert await set_level("?level=") == "warn"
        assert await set_level("?level=trace") == "debug"
        assert await set_level("?level=") == "debug"
        assert await set_level("?reset") == "warn"
        assert await set_level("?level=info&reset") == "info"


@pytest.mark.parametrize("level", ["loud", "off", "access:debug,info"])
async def test_an_unknown_log_level_changes_nothing(level: str) -> None:
    async with served() as url, aiohttp.ClientSession() as session:
        async with session.post(url, params={"level": level}) as answer:
            assert answer.status == 400
            assert level in await answer.text()
        async with session.post(url) as answer:
            assert "is warn" in await answer.text()
