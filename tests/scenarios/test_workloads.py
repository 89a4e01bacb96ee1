"""What a scenario's file cannot say about workloads at a waypoint: open connections, metrics, many pods."""

import asyncio

from tests.scenarios import world
from tests.scenarios.files import Behaviour, Scenario, Service
from tests.scenarios.proxy import calling, echoed, get, samples, stat
from tests.scenarios.world import World
from tests.support.kubernetes_objects import pod

SERVICES = {
    "db": Service(ports={"tcp": 9000}, pods={"v1": Behaviour(repeats=True)}),
    "web": Service(pods={"v1": Behaviour(tunnel=True), "v2": Behaviour()}),
}


def scenario() -> Scenario:
    return Scenario(about="", waypoint_for="all", services=SERVICES, steps=())


async def reaches(running: World, name: str, least: int) -> None:
    """Wait until a counter has a value."""
    async with asyncio.timeout(30):
        while await stat(running, name) < least:
            await asyncio.sleep(0.05)


async def test_pods_that_come_change_and_go_close_no_connection() -> None:
    async with world.running(scenario()) as running, calling(running, "10.0.1.1:9000") as port:
        pair = await asyncio.open_connection("127.0.0.1", port)
        assert await echoed(pair) == b"hello\n"

        added = await stat(running, "cluster_manager.cluster_added")
        running.put({"kind": "Pod", **pod("more", "default", ip="10.0.7.7")})
        running.publish()
        await reaches(running, "cluster_manager.cluster_added", added + 1)
        assert await stat(running, "listener_manager.listener_modified") == 0
        assert await echoed(pair) == b"hello\n"

        running.put({"kind": "Pod", **pod("db-v1", "default", ip="10.0.1.1", captured=True)})
        running.publish()
        await reaches(running, "cluster_manager.cluster_modified", 1)
        assert await echoed(pair) == b"hello\n"

        running.remove("Pod/db-v1")
        running.publish()
        await reaches(running, "cluster_manager.cluster_removed", 1)
        assert await echoed(pair) == b"hello\n"
        pair[1].close()


async def by_workload(running: World, name: str, least: int) -> dict[str, dict[str, str]]:
    """The labels of each workload's samples, once there are enough of them."""
    async with asyncio.timeout(10):
        while len(found := await samples(running, name)) < least:
            await asyncio.sleep(0.05)
    return {one["destination_workload"]: one for one in found}


async def test_metrics_name_the_workload() -> None:
    async with world.running(scenario()) as running:
        assert await get(running, "10.0.2.2:8080") == 200
        assert await get(running, "10.0.2.3:8080") == 200
        assert await get(running, "10.0.9.9:8080") == 503
        async with calling(running, "10.0.1.1:9000") as port:
            pair = await asyncio.open_connection("127.0.0.1", port)
            assert await echoed(pair) == b"hello\n"
            pair[1].close()

        requests = await by_workload(running, "istio_requests_total", 3)
        assert set(requests) == {"web-v1", "web-v2", "unknown"}
        expected = {
            "reporter": "waypoint",
            "response_code": "200",
            "source_workload": "client",
            "source_principal": "spiffe://cluster.local/ns/default/sa/client",
            "destination_workload_namespace": "default",
            "destination_service_namespace": "default",
            "destination_service": "unknown",
            "destination_app": "web",
            "destination_principal": "spiffe://cluster.local/ns/default/sa/default",
            "destination_cluster": "Kubernetes",
        }
        assert {name: requests["web-v1"][name] for name in expected} == expected
        assert requests["web-v2"]["destination_principal"] == "unknown"  # called in plain text
        assert requests["unknown"]["response_code"] == "503"
        connections = await by_workload(running, "istio_tcp_connections_closed_total", 1)
        assert set(connections) == {"db-v1"}
        assert connections["db-v1"]["request_protocol"] == "tcp"


async def test_metrics_name_what_was_called_where_the_proxy_answers_itself() -> None:
    targets = [{"kind": "Gateway", "group": "gateway.networking.k8s.io", "name": "waypoint"}]
    async with world.running(scenario()) as running:
        spec = {"targetRefs": targets, "action": "DENY", "rules": [{}]}
        running.put({"kind": "AuthorizationPolicy", "metadata": {"name": "no"}, "spec": spec})
        running.publish()
        async with asyncio.timeout(10):
            while await get(running, "10.96.0.2:8080") != 403:
                await asyncio.sleep(0.05)
        assert await get(running, "10.0.2.3:8080") == 403
        async with asyncio.timeout(10):
            while len(found := await samples(running, "istio_requests_total", response_code="403")) < 2:
                await asyncio.sleep(0.05)
        assert {one["destination_service_name"] for one in found} == {"web", "unknown"}
        assert {one["destination_workload"] for one in found} == {"unknown", "web-v2"}


async def test_of_a_thousand_pods_each_is_a_small_change() -> None:
    async with world.running(scenario()) as running:
        for number in range(1000):
            item = pod(f"pod-{number}", "default", ip=f"10.1.{number // 250}.{number % 250 + 1}")
            running.put({"kind": "Pod", **item})
        running.publish()
        await reaches(running, "cluster_manager.active_clusters", 1000)
        assert await stat(running, "listener_manager.listener_modified") == 0
        assert await get(running, "10.0.2.3:8080") == 200
        assert await get(running, "10.1.0.0:8080") == 503
