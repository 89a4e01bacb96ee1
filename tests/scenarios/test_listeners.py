"""What a scenario's file cannot say about a waypoint's listeners: open connections, and metrics."""

import asyncio

from tests.scenarios import world
from tests.scenarios.files import Behaviour, Scenario, Service
from tests.scenarios.proxy import calling, echoed, get, samples, stat
from tests.support.kubernetes_objects import service

DB = "10.96.0.1"
WEB = "10.96.0.2"


def scenario() -> Scenario:
    db = Service(ports={"tcp": 9000}, pods={"v1": Behaviour(repeats=True)})
    return Scenario(about="", services={"db": db, "web": Service()}, steps=())


async def test_services_that_come_and_change_close_no_connection() -> None:
    async with world.running(scenario()) as running, calling(running, f"{DB}:9000") as port:
        pair = await asyncio.open_connection("127.0.0.1", port)
        assert await echoed(pair) == b"hello\n"
        modified = "listener_manager.listener_modified"
        db = service("db", "default", clusterIP=DB, clusterIPs=[DB, "10.96.9.9"], ports=[{"name": "tcp", "port": 9000}])
        ports = [{"name": "http", "port": 77}]
        more = service("more", "default", clusterIP="10.96.7.7", clusterIPs=["10.96.7.7"], ports=ports)
        for number, item in enumerate((db, more), 1):
            running.put({"kind": "Service", **item})
            running.publish()
            async with asyncio.timeout(10):
                while await stat(running, modified) < number:
                    await asyncio.sleep(0.05)
        # What Envoy drains, or replaces as a whole, it closes at the end of its drain time.
        assert await stat(running, "listener_manager.listener_in_place_updated") == await stat(running, modified)
        assert await stat(running, "listener_manager.total_filter_chains_draining") == 0
        assert await echoed(pair) == b"hello\n"
        pair[1].close()


async def test_metrics_name_the_service_where_the_proxy_answers_itself() -> None:
    targets = [{"kind": "Gateway", "group": "gateway.networking.k8s.io", "name": "waypoint"}]
    async with world.running(scenario()) as running:
        spec = {"targetRefs": targets, "action": "DENY", "rules": [{}]}
        running.put({"kind": "AuthorizationPolicy", "metadata": {"name": "no"}, "spec": spec})
        running.publish()
        async with asyncio.timeout(10):
            while await get(running, f"{WEB}:8080") != 403:
                await asyncio.sleep(0.05)
            while not (found := await samples(running, "istio_requests_total", response_code="403")):
                await asyncio.sleep(0.05)
        assert {one["destination_service_name"] for one in found} == {"web"}
        assert {one["destination_workload"] for one in found} == {"unknown"}
