"""Threat ``debug-exposure``, ``tenant-crossing``: who may see what, and whom a namespaced object may touch."""

import re

import aiohttp
import grpc
import pytest
from envoy.service.discovery.v3 import discovery_pb2

from controlplane.ambient.model import Model, create
from controlplane.inputs.mesh import MeshContext
from controlplane.settings import Settings
from meshapi import names
from meshapi.proto import workload_pb2
from meshapi.resources import base, core, networking
from meshkit.xds import client
from tests.support import kubernetes_objects as objects
from tests.support.ambient_model import put
from tests.support.running_control_plane import Recorder, Running

PAGES = [
    "/debug/model",
    "/debug/syncz",
    "/config_dump",
    "/quitquitquit",
    "/debug/",
    "/debug/../debug/model",
    "//debug/model",
]


@pytest.mark.parametrize("page", PAGES)
async def test_nothing_but_metrics_and_readiness_is_served_beyond_localhost(running: Running, page: str) -> None:
    settings = running.settings
    async with aiohttp.ClientSession() as session:
        for address in (settings.metrics_address, settings.health_address):
            for method in ("GET", "POST", "PUT", "DELETE"):
                if (method, address, page) == ("GET", settings.metrics_address, "/debug/syncz"):
                    continue  # for loopback only: test_admin.py, test_kiali_reads_...
                async with session.request(method, f"http://{address}{page}") as response:
                    assert response.status in {404, 405}, (address, method)
                    assert "ztunnel" not in await response.text()


async def test_kiali_reads_which_proxies_are_in_sync_through_a_port_forward(running: Running) -> None:
    """In the flat form of Istio's control plane, on the metrics port's loopback side."""
    recorder = Recorder()
    async with running.subscriber(recorder) as subscriber:
        await subscriber.wait_received()
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{running.settings.metrics_address}/debug/syncz") as response,
        ):
            [proxy] = await response.json()
    assert proxy.items() >= {"cluster_id": "", "proxy": "ztunnel-1.istio-system", "proxy_type": "ztunnel"}.items()
    types = ("cluster", "listener", "route", "endpoint")
    assert {f"{name}_{what}": proxy[f"{name}_{what}"] for name in types for what in ("sent", "acked")} == dict.fromkeys(
        (f"{name}_{what}" for name in types for what in ("sent", "acked")), ""
    )


async def test_the_version_is_one_that_kiali_can_compare(running: Running) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{running.settings.metrics_address}/version") as response,
    ):
        assert re.search(r"\d+\.\d+\.\d+", await response.text())


def test_debug_pages_are_on_localhost_by_default() -> None:
    assert Settings().admin_address.startswith("127.0.0.1:")


async def test_the_debug_pages_hold_no_key(running: Running) -> None:
    for page in ("/debug/model", "/debug/syncz"):
        text = await running.page(page)
        assert "PRIVATE KEY" not in text
        assert "ztunnel-token" not in text


@pytest.mark.parametrize("token", ["", "made-up"])
@pytest.mark.parametrize(
    "kind", ["istio.io/debug/syncz", "istio.io/debug", "type.googleapis.com/istio.io.debug.v1", ""]
)
async def test_without_a_token_no_stream_says_anything(running: Running, token: str, kind: str) -> None:
    """Istio served its debug pages over discovery; unauthenticated, that was CVE-2026-31838."""
    async with running.connect()() as channel:
        call = channel.stream_stream(
            client.Service.AGGREGATED.value,
            request_serializer=discovery_pb2.DeltaDiscoveryRequest.SerializeToString,
            response_deserializer=discovery_pb2.DeltaDiscoveryResponse.FromString,
        )(metadata=(("authorization", f"Bearer {token}"),) if token else ())
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call.write(discovery_pb2.DeltaDiscoveryRequest(type_url=kind))
            await call.read()
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


KINDS = [names.SYNC_STATUS_TYPE, names.DEBUG_TYPE, "istio.io/debug/config_dump", names.CLUSTER_TYPE, ""]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("", [grpc.StatusCode.UNAUTHENTICATED] * 5),
        ("made-up", [grpc.StatusCode.UNAUTHENTICATED] * 5),
        ("web-token", [grpc.StatusCode.PERMISSION_DENIED] * 2 + [grpc.StatusCode.UNIMPLEMENTED] * 3),
        ("admin-token", [None] * 2 + [grpc.StatusCode.UNIMPLEMENTED] * 3),
    ],
)
async def test_debug_requests_are_answered_to_the_control_planes_own_namespace_only(
    running: Running, kind: str, token: str, expected: list[grpc.StatusCode | None]
) -> None:
    wanted = expected[KINDS.index(kind)]
    if wanted is None:
        assert (await running.request(token, kind, "syncz")).type_url == kind
        return
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await running.request(token, kind, "syncz")
    assert refused.value.code() is wanted
    assert "ztunnel" not in (refused.value.details() or "")


def workload(model: Model, uid: str) -> workload_pb2.Workload:
    return workload_pb2.Address.FromString(model.all(names.ADDRESS_TYPE)[uid].body).workload


def test_an_entry_of_one_namespace_takes_no_name_and_no_pod_of_another() -> None:
    model = create(MeshContext())
    pod = base.read(core.Pod, objects.pod("web", "shop", labels={"app": "web"}, captured=True))
    service = base.read(core.Service, objects.service("web", "shop", ports=[{"port": 80, "targetPort": 8080}]))
    put(model, pod, service)
    model.flush()
    before = model.all(names.ADDRESS_TYPE)
    hostile = objects.service_entry(
        "mine", "dev", hosts=["web.shop.svc.cluster.local"], selector={"app": "web"}, resolution="STATIC",
        ports=[{"number": 80, "name": "http", "protocol": "HTTP"}],
    )  # fmt: skip
    put(model, base.read(networking.ServiceEntry, hostile))
    model.flush()
    after = model.all(names.ADDRESS_TYPE)
    # What was there is as it was, byte by byte; what is new is of the other namespace and not the canonical one.
    assert {name: after[name] for name in before} == before
    for name in after.keys() - before.keys():
        assert name.startswith("dev/")
        assert not workload_pb2.Address.FromString(after[name].body).service.canonical
