"""Zipkin joins the spans of a waypoint to one trace."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from meshlab import programs
from tests.scenarios import world
from tests.scenarios.files import Scenario, Service
from tests.scenarios.proxy import answers
from tests.support.kubernetes_objects import pod

pytestmark = pytest.mark.timeout(900)  # with the build

ADDRESS = "10.0.9.9"
PORT = 9411
TRACE = "80f198ee56343ba864fe8b2a57d3eff7"
CALLER = "e457b5a2e4d86bd1"
FORWARDED = ("x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled")
"""What applications have to forward from the request that they serve to those that they make, as with Istio."""
SCENARIO = Scenario(
    about="",
    services={"front": Service(), "back": Service(), "zipkin": Service(ports={"http": PORT}, pods={})},
    mesh={
        "extensionProviders": [
            {"name": "zipkin", "zipkin": {"service": "zipkin.default.svc.cluster.local", "port": PORT}}
        ],
        "defaultProviders": {"tracing": ["zipkin"]},
    },
    steps=(),
)


@pytest.fixture(scope="session")
def jar() -> Path:
    """Fetched before the test is in a network of its own."""
    return programs.zipkin(print) / "zipkin.jar"


@contextlib.asynccontextmanager
async def zipkin(jar: Path, folder: Path) -> AsyncIterator[None]:
    log = folder / "zipkin.txt"
    options = ("-Xmx256m", "-XX:TieredStopAtLevel=1")  # what starts soonest, not what is fastest later
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec("java", *options, "-jar", jar, stdout=output, stderr=output)

    async def healthy() -> bool:
        assert process.returncode is None, log.read_text()
        with contextlib.suppress(aiohttp.ClientError):
            return "UP" in await page("/health")
        return False

    try:
        async with asyncio.timeout(90):
            while not await healthy():
                await asyncio.sleep(0.2)
        yield
    finally:
        process.kill()
        await process.wait()


async def page(path: str) -> str:
    async with aiohttp.ClientSession() as client, client.get(f"http://{ADDRESS}:{PORT}{path}") as answer:
        return await answer.text() if answer.status == 200 else ""


async def trace() -> list[dict[str, Any]]:
    """The spans of the trace that have arrived."""
    found: list[dict[str, Any]] = json.loads(await page(f"/api/v2/trace/{TRACE}") or "[]")
    return found


async def test_a_request_and_what_its_application_calls_are_one_trace(jar: Path) -> None:
    async with world.running(SCENARIO) as running, zipkin(jar, running.folder):
        running.put({"kind": "Pod", **pod("zipkin", "default", ip=ADDRESS, labels={"app": "zipkin"})})
        running.publish()
        given = {"x-b3-traceid": TRACE, "x-b3-spanid": CALLER, "x-b3-sampled": "1"}
        assert (await answers(running, "10.96.0.1:8080", "/a", headers=given)).status == 200
        # The application "front" calls "back" with the headers that it has got.
        forwarded = {name: running.seen[-1].headers[name] for name in FORWARDED if name in running.seen[-1].headers}
        assert (await answers(running, "10.96.0.2:8080", "/b", headers=forwarded)).status == 200
        async with asyncio.timeout(30):
            while len(spans := await trace()) < 4:
                await asyncio.sleep(0.2)
    children = {one.get("parentId"): one for one in spans}
    names = []
    parent: str | None = CALLER
    while parent in children:
        one = children.pop(parent)
        names.append((one["kind"], one["name"].partition(".")[0], one["tags"]["http.status_code"]))
        parent = one["id"]
    assert children == {}, "every span has its place"
    assert names == [(kind, of, "200") for of in ("front", "back") for kind in ("SERVER", "CLIENT")]
