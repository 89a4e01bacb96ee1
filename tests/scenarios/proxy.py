"""Questions to the proxy of a running scenario, beside those of its steps."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp

from tests.scenarios import world
from tests.scenarios.world import World
from tests.support import hbone_client


async def page(running: World, path: str) -> str:
    """A page of the proxy's admin."""
    connector = aiohttp.UnixConnector(str(running.folder / "admin"))
    async with aiohttp.ClientSession(connector=connector) as client, client.get(f"http://envoy{path}") as answer:
        return await answer.text()


async def stat(running: World, name: str) -> int:
    """A counter or gauge."""
    text = await page(running, f"/stats?filter=^{re.escape(name)}$")
    return int(text.partition(": ")[2])


@contextlib.asynccontextmanager
async def calling(running: World, authority: str, account: str = "client") -> AsyncIterator[int]:
    """A port that leads through the waypoint; with a gateway, its port 80."""
    if running.scenario.gateway:
        yield 80
        return
    async with (
        running.tunnel("default", account) as tunnel,
        hbone_client.relay(tunnel, authority, world.baggage("default", account)) as port,
    ):
        yield port


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client got."""

    status: int
    body: str


async def answers(
    running: World, authority: str, path: str = "/", *, account: str = "client", headers: dict[str, str] | None = None
) -> Answer:
    """What a request gets."""
    async with (
        calling(running, authority, account) as port,
        aiohttp.ClientSession() as client,
        client.get(f"http://127.0.0.1:{port}{path}", headers=headers) as answer,
    ):
        return Answer(answer.status, await answer.text())


async def get(running: World, authority: str) -> int:
    """Status of a request."""
    return (await answers(running, authority)).status


async def echoed(pair: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> bytes:
    """What comes back over an open connection to a server that repeats lines."""
    reader, writer = pair
    writer.write(b"hello\n")
    return await asyncio.wait_for(reader.readline(), 5)


async def samples(running: World, name: str, **wanted: str) -> list[dict[str, str]]:
    """The labels of each sample of a metric that has the wanted ones."""
    text = await page(running, "/stats/prometheus")
    found = re.findall(rf"^envoy_{name}{{(.*)}} \d+$", text, re.MULTILINE)
    labelled = [dict(re.findall(r'(\w+)="([^"]*)"', labels)) for labels in found]
    return [one for one in labelled if wanted.items() <= one.items()]
