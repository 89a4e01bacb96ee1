"""A gateway at the edge comes to be, gets an address, and says what becomes of its listeners and ListenerSets."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from controlplane.ambient.model import Model, create
from controlplane.envoy import layer7
from controlplane.inputs.mesh import MeshContext
from controlplane.proxies.controller import Proxies
from controlplane.status import gateways
from meshapi.resources import base, gateway, gateway_routes
from meshkit import kube
from meshkit.kube import Json
from tests.support.fake_kubernetes import FakeKubernetes
from tests.support.waiting import until
from tests.unit.controlplane.test_proxies import DEFAULTS

PLURALS = {"Gateway": "gateways", "ListenerSet": "listenersets"}
MODELS = {"Gateway": gateway.Gateway, "ListenerSet": gateway.ListenerSet}


@contextlib.asynccontextmanager
async def leading(api: FakeKubernetes) -> AsyncIterator[Model]:
    model = create(MeshContext())
    reports = gateways.reports(layer7.create(model))
    async with kube.Client(kube.explicit(api.url)) as client, asyncio.TaskGroup() as tasks:
        proxies = Proxies(client, model.inputs, reports, DEFAULTS, lambda: datetime(2026, 1, 1, tzinfo=UTC))
        running = [tasks.create_task(one) for one in (*(one.run() for one in proxies.informers), proxies.run())]
        yield model
        for task in running:
            task.cancel()


def put(api: FakeKubernetes, model: Model, kind: str, item: Json) -> None:
    api.put(PLURALS[kind], item)
    found = base.read(MODELS[kind], item)
    model.inputs.of(MODELS[kind]).set(found.key, found)
    model.flush()


def status(api: FakeKubernetes, kind: str, name: str, namespace: str = "shop") -> dict[str, str]:
    held = (api.get(PLURALS[kind], name, namespace) or {}).get("status") or {}
    return {one["type"]: one["reason"] for one in held.get("conditions") or ()}


def web(**spec: object) -> Json:
    listener = {"name": "http", "port": 80, "protocol": "HTTP"}
    metadata = {"name": "web", "namespace": "shop", "uid": "u", "generation": 1}
    return {"metadata": metadata, "spec": {"gatewayClassName": "istio", "listeners": [listener], **spec}}


async def test_a_gateway_is_programmed_when_its_load_balancer_and_a_pod_are_there() -> None:
    async with FakeKubernetes() as api, leading(api) as model:
        await until(lambda: api.get("gatewayclasses", "istio") and api.get("gatewayclasses", "istio-remote"))
        put(api, model, "Gateway", web())
        await until(lambda: status(api, "Gateway", "web").get("Programmed") == "AddressNotAssigned")
        service = dict(api.get("services", "web-istio", "shop") or {})
        api.put("services", {**service, "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}]}}})
        deployment = dict(api.get("deployments", "web-istio", "shop") or {})
        api.put("deployments", {**deployment, "status": {"readyReplicas": 1}})
        await until(lambda: status(api, "Gateway", "web").get("Programmed") == "Programmed")
        held = (api.get("gateways", "web", "shop") or {})["status"]
        assert held["addresses"] == [{"type": "IPAddress", "value": "203.0.113.7"}]
        route = {
            "metadata": {"name": "r", "namespace": "shop"},
            "spec": {"parentRefs": [{"name": "web"}], "rules": [{"backendRefs": [{"name": "x", "port": 80}]}]},
        }
        found = base.read(gateway_routes.HTTPRoute, route)
        model.inputs.of(gateway_routes.HTTPRoute).set(found.key, found)
        model.flush()
        await until(lambda: (api.get("gateways", "web", "shop") or {})["status"]["listeners"][0]["attachedRoutes"] == 1)


async def test_a_listener_set_gets_a_status_and_a_port_of_the_service() -> None:
    async with FakeKubernetes() as api, leading(api) as model:
        put(api, model, "Gateway", web(allowedListeners={"namespaces": {"from": "Same"}}))
        more = {
            "metadata": {"name": "more", "namespace": "shop", "generation": 1},
            "spec": {"parentRef": {"name": "web"}, "listeners": [{"name": "odd", "port": 8081, "protocol": "HTTP"}]},
        }
        put(api, model, "ListenerSet", more)
        await until(lambda: status(api, "ListenerSet", "more").get("Accepted") == "Accepted")

        def ports() -> list[int]:
            return [one["port"] for one in (api.get("services", "web-istio", "shop") or {})["spec"]["ports"]]

        await until(lambda: ports() == [15021, 80, 8081])


async def test_a_gateway_of_the_users_own_pods_has_the_address_of_their_service() -> None:
    async with FakeKubernetes() as api, leading(api) as model:
        ingress = {"status": {"loadBalancer": {"ingress": [{"hostname": "lb.example"}]}}}
        metadata = {"name": "edge", "namespace": "shop"}
        api.put("services", {"metadata": metadata, "spec": {"type": "LoadBalancer"}, **ingress})
        put(api, model, "Gateway", web(addresses=[{"type": "Hostname", "value": "edge"}]))
        await until(lambda: status(api, "Gateway", "web").get("Programmed") == "Programmed")
        held = (api.get("gateways", "web", "shop") or {})["status"]
        assert held["addresses"] == [{"type": "Hostname", "value": "lb.example"}]
        assert api.get("deployments", "web-istio", "shop") is None
        younger = web(addresses=[{"type": "Hostname", "value": "edge.shop.svc.cluster.local"}])
        younger["metadata"] |= {"name": "late", "creationTimestamp": "2026-05-01T00:00:00Z"}
        put(api, model, "Gateway", younger)
        await until(lambda: status(api, "Gateway", "late").get("Accepted") == "Invalid")
