"""The debug requests of ``istioctl`` over discovery; their authorization is tested in ``test_exposure``."""

import asyncio
import json

import aiohttp
import pytest
from envoy.service.discovery.v3 import discovery_pb2
from envoy.service.status.v3 import csds_pb2

from controlplane.metrics import own_version
from meshapi import names
from tests.support.kubernetes_objects import pod
from tests.support.running_control_plane import Recorder, Running

NEW = "Kubernetes//Pod/shop/new"
PROXY = "ztunnel~10.0.0.9~ztunnel-1.istio-system~x"


async def debug_request(running: Running, type_url: str, *resources: str) -> discovery_pb2.DiscoveryResponse:
    answer = await running.request("admin-token", type_url, *resources)
    assert answer.type_url == type_url
    return answer


async def states(running: Running) -> dict[str, csds_pb2.ClientConfig.GenericXdsConfig]:
    (packed,) = (await debug_request(running, names.SYNC_STATUS_TYPE)).resources
    config = csds_pb2.ClientConfig()
    assert packed.Unpack(config)
    assert config.node.id == PROXY
    return {one.type_url: one for one in config.generic_xds_configs}


async def becomes(running: Running, addresses: int) -> dict[str, csds_pb2.ClientConfig.GenericXdsConfig]:
    async with asyncio.timeout(5):
        while (found := await states(running))[names.ADDRESS_TYPE].config_status != addresses:
            await asyncio.sleep(0.02)
    return found


async def test_each_proxy_has_its_state_by_type(running: Running) -> None:
    assert not (await debug_request(running, names.SYNC_STATUS_TYPE)).resources
    seen = Recorder()
    seen.refuse[NEW] = "addresses: no"
    async with running.subscriber(seen) as subscriber:
        await asyncio.wait_for(subscriber.wait_received(), 5)
        found = await becomes(running, csds_pb2.SYNCED)
        assert found[names.AUTHORIZATION_TYPE].config_status == csds_pb2.SYNCED

        running.api.put("pods", pod("new", ip="10.0.0.2"))
        found = await becomes(running, csds_pb2.ERROR)
        assert found[names.AUTHORIZATION_TYPE].config_status == csds_pb2.SYNCED
        assert found[names.ADDRESS_TYPE].error_state.details == f"{NEW}: addresses: no"


async def test_an_answer_says_which_control_plane_gives_it(running: Running) -> None:
    identifier = json.loads((await debug_request(running, names.SYNC_STATUS_TYPE)).control_plane.identifier)
    assert identifier["Component"] == "istiod"
    assert identifier["ID"]
    assert identifier["Info"]["version"] == own_version()


async def test_a_debug_request_for_a_page_is_answered_as_on_the_admin_port(running: Running) -> None:
    async with running.subscriber(Recorder()) as subscriber:
        await asyncio.wait_for(subscriber.wait_received(), 5)
        await becomes(running, csds_pb2.SYNCED)
        (page,) = (await debug_request(running, names.DEBUG_TYPE, "syncz")).resources
        assert page.value.decode() == await running.page("/debug/syncz")
        assert json.loads(page.value)[0]["proxy"] == PROXY
    (page,) = (await debug_request(running, names.DEBUG_TYPE, "list")).resources
    assert json.loads(page.value) == ["syncz"]
    for wanted in (["edsz"], ["syncz", "syncz"], []):
        (page,) = (await debug_request(running, names.DEBUG_TYPE, *wanted)).resources
        assert page.value == b"404 page not found"


@pytest.mark.parametrize("path", ["/version", "//version"])
async def test_the_version_is_on_the_metrics_port(running: Running, path: str) -> None:
    page = f"http://{running.settings.metrics_address}{path}"
    async with aiohttp.ClientSession() as session, session.get(page) as answer:
        assert await answer.text() == own_version()
