"""compression-bombs: a waypoint holds no more of a body than it is told to, and unpacks nothing."""

import asyncio
import gzip
import io

import aiohttp

from bench.rows import resident_bytes
from tests.scenarios import world
from tests.scenarios.files import Behaviour, Scenario, Service
from tests.scenarios.proxy import calling
from tests.scenarios.world import World

BODY = 64 << 20
"""Bytes of each request."""
HELD = 24 << 20
"""What all of them together may take of the proxy's memory at one time."""
CLIENTS = 4
AUTHORIZER = {
    "name": "ext",
    "envoyExtAuthzGrpc": {
        "service": "ext.default.svc.cluster.local",
        "port": 9000,
        "includeRequestBodyInCheck": {"maxRequestBytes": 8192},
    },
}
POLICY = {
    "kind": "AuthorizationPolicy",
    "metadata": {"name": "asked"},
    "spec": {
        "targetRefs": [{"kind": "Service", "group": "", "name": "web"}],
        "action": "CUSTOM",
        "provider": {"name": "ext"},
        "rules": [{"to": [{"operation": {"paths": ["/asked"]}}]}],
    },
}
SCENARIO = Scenario(
    about="",
    services={"web": Service(), "ext": Service(ports={"grpc": 9000}, pods={"e": Behaviour()})},
    mesh={"extensionProviders": [AUTHORIZER]},
    resources=(POLICY,),
    steps=(),
)


async def status(running: World, path: str, body: bytes, **headers: str) -> int:
    async with (
        calling(running, "10.96.0.1:8080") as port,
        aiohttp.ClientSession() as client,
        client.post(f"http://127.0.0.1:{port}{path}", data=io.BytesIO(body), headers=headers) as answer,
    ):
        return answer.status


def resident(running: World) -> int:
    assert running.envoy is not None
    return resident_bytes(running.envoy.process.pid)


async def most_memory(running: World, until: asyncio.Event) -> int:
    """How much more memory the proxy has at the most than at the beginning, in bytes."""
    before = most = resident(running)
    while not until.is_set():
        most = max(most, resident(running))
        await asyncio.sleep(0.005)
    return most - before


async def test_a_body_that_is_too_large_for_an_authorizer_is_refused_and_not_kept() -> None:
    async with world.running(SCENARIO) as running:
        assert await status(running, "/asked", b"small") == 200
        ended = asyncio.Event()
        watched = asyncio.create_task(most_memory(running, ended))
        body = bytes(BODY)
        found = await asyncio.gather(*(status(running, "/asked", body) for _ in range(CLIENTS)), return_exceptions=True)
        ended.set()
        # The proxy closes what it does not read, so that a client may see that before the answer.
        assert all(one == 413 or isinstance(one, OSError) for one in found), found
        assert await watched < HELD
        assert len(running.seen) == 2, "the authorizer and the service have seen the small one only"


async def test_what_is_compressed_reaches_the_service_as_it_was_sent() -> None:
    async with world.running(SCENARIO) as running:
        packed = gzip.compress(bytes(BODY))
        ended = asyncio.Event()
        watched = asyncio.create_task(most_memory(running, ended))
        found = [await status(running, "/open", packed, **{"x-encoding": "gzip"}) for _ in range(CLIENTS)]
        ended.set()
        assert found == [200] * CLIENTS
        assert await watched < HELD
        assert {len(one.body.encode("utf-8", "surrogateescape")) >= len(packed) for one in running.seen} == {True}
